package recall_test

import (
	"fmt"
	"strings"
)

// nationalIDs make numbers of persons with the check digits that each country publishes, by country. Each is written bare or with the
// separators that are usual there.
var nationalIDs = map[string]func(m *maker) string{
	"BE": belgian, "BR": brazilian, "CA": canadian, "CH": swiss, "CL": chilean, "CN": chinese, "DE": german, "EE": estonian, "ES": spanish, "FI": finnish,
	"FR": french, "GB-NHS": nhs, "IN": indian, "IT": italian, "KR": korean, "MX": mexican, "NL": dutch, "NO": norwegian, "PL": polish, "PT": portuguese,
	"RO": romanian, "SE": swedish, "TR": turkish, "ZA": southAfrican,
}

// weak reports whether a number has a form of which one in ten numbers is one: digits alone, or in threes as amounts are written, with a single
// check digit and no date. No recall is claimed for these by their form.
func weak(country, value string) bool {
	switch country {
	case "NL", "PT", "GB-NHS", "IN":
		return country == "NL" || country == "PT" || !strings.Contains(value, " ")
	case "CA":
		return !strings.Contains(value, "-")
	}
	return false
}

func (m *maker) maybe(s, sep string, sizes ...int) string {
	if m.IntN(2) == 0 {
		return s
	}
	return grouped(s, sep, sizes...)
}

func belgian(m *maker) string {
	born := m.birthday()
	s := born.Format("060102") + fmt.Sprintf("%03d", m.in(1, 997))
	n := number(s)
	if born.Year() >= 2000 {
		n += 2_000_000_000
	}
	s += fmt.Sprintf("%02d", 97-n%97)
	if m.IntN(2) == 0 {
		return s
	}
	return s[:2] + "." + s[2:4] + "." + s[4:6] + "-" + s[6:9] + "." + s[9:]
}

func number(s string) (n int) {
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	return n
}

func brazilian(m *maker) string {
	s := m.text(9, digits)
	for range 2 {
		sum := 0
		for i := range len(s) {
			sum += int(s[i]-'0') * (len(s) + 1 - i)
		}
		s += string(digits[sum*10%11%10])
	}
	if m.IntN(2) == 0 {
		return s
	}
	return s[:3] + "." + s[3:6] + "." + s[6:9] + "-" + s[9:]
}

func canadian(m *maker) string {
	s := m.pick("1", "2", "4", "5", "6", "7") + m.text(7, digits)
	return m.maybe(s+luhn(s), m.pick(" ", "-"), 3, 3, 3)
}

func swiss(m *maker) string {
	s := "756" + m.text(9, digits)
	s += string(digits[(10-weighted(s, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3)%10)%10])
	return m.maybe(s, ".", 3, 4, 4, 2)
}

func chilean(m *maker) string {
	s := fmt.Sprint(m.in(5_000_000, 25_000_000))
	sum, w := 0, 2
	for i := len(s) - 1; i >= 0; i-- {
		sum += int(s[i]-'0') * w
		if w++; w > 7 {
			w = 2
		}
	}
	check := "0123456789K0"[11-sum%11]
	if m.IntN(2) == 0 {
		return s + "-" + string(check)
	}
	return grouped(s, ".", len(s)-6, 3, 3) + "-" + string(check)
}

func chinese(m *maker) string {
	s := m.pick("11", "31", "44", "51", "33", "42") + m.pick("0101", "0102", "0203", "0111") + m.birthday().Format("20060102") + m.text(3, digits)
	return s + string("10X98765432"[weighted(s, 7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)%11])
}

// german is a tax number: of its first ten digits exactly one occurs twice, and another not at all.
func german(m *maker) string {
	order := m.Perm(10)
	ten := order[:9]
	ten = append(ten[:9:9], ten[m.in(1, 8)])
	m.Shuffle(9, func(i, j int) { ten[i+1], ten[j+1] = ten[j+1], ten[i+1] })
	if ten[0] == 0 {
		return german(m)
	}
	product := 10
	var s strings.Builder
	for _, d := range ten {
		sum := (d + product) % 10
		if sum == 0 {
			sum = 10
		}
		product = sum * 2 % 11
		s.WriteByte(digits[d])
	}
	return m.maybe(s.String()+string(digits[(11-product)%10]), " ", 2, 3, 3, 3)
}

func estonian(m *maker) string {
	born := m.birthday()
	first := m.in(3, 4)
	if born.Year() >= 2000 {
		first += 2
	}
	s := fmt.Sprint(first) + born.Format("060102") + m.text(3, digits)
	check := weighted(s, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1) % 11
	if check == 10 {
		check = weighted(s, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3) % 11 % 10
	}
	return s + string(digits[check])
}

func spanish(m *maker) string {
	const letters = "TRWAGMYFPDXBNJZSQVHLCKE"
	if m.IntN(3) == 0 {
		first, rest := m.IntN(3), m.text(7, digits)
		return "XYZ"[first:first+1] + rest + string(letters[number(fmt.Sprint(first)+rest)%23])
	}
	n := m.in(10_000_000, 79_999_999)
	return fmt.Sprint(n) + m.pick("", "", "-") + string(letters[n%23])
}

func finnish(m *maker) string {
	born, individual := m.birthday(), m.in(2, 899)
	sign := m.pick("-", "-", "Y")
	if born.Year() >= 2000 {
		sign = "A"
	}
	n := number(born.Format("020106") + fmt.Sprintf("%03d", individual))
	return born.Format("020106") + sign + fmt.Sprintf("%03d", individual) + string("0123456789ABCDEFHJKLMNPRSTUVWXY"[n%31])
}

func french(m *maker) string {
	s := fmt.Sprintf("%d%s%02d%03d%03d", m.in(1, 2), m.birthday().Format("0601"), m.in(1, 95), m.in(1, 450), m.in(1, 300))
	if s[5:7] == "20" {
		s = s[:5] + "21" + s[7:]
	}
	return m.maybe(s+fmt.Sprintf("%02d", 97-number(s)%97), " ", 1, 2, 2, 2, 3, 3, 2)
}

func nhs(m *maker) string {
	s := m.pick("4", "6", "7", "9") + m.text(8, digits)
	check := 11 - weighted(s, 10, 9, 8, 7, 6, 5, 4, 3, 2)%11
	if check == 10 {
		return nhs(m)
	}
	return m.maybe(s+string(digits[check%11%10]), " ", 3, 3, 4)
}

// indian is an Aadhaar number, with the check digit of Verhoeff.
func indian(m *maker) string {
	times := [10][10]int{{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 2, 3, 4, 0, 6, 7, 8, 9, 5}, {2, 3, 4, 0, 1, 7, 8, 9, 5, 6}, {3, 4, 0, 1, 2, 8, 9, 5, 6, 7},
		{4, 0, 1, 2, 3, 9, 5, 6, 7, 8}, {5, 9, 8, 7, 6, 0, 4, 3, 2, 1}, {6, 5, 9, 8, 7, 1, 0, 4, 3, 2}, {7, 6, 5, 9, 8, 2, 1, 0, 4, 3},
		{8, 7, 6, 5, 9, 3, 2, 1, 0, 4}, {9, 8, 7, 6, 5, 4, 3, 2, 1, 0}}
	first, permuted := [10]int{1, 5, 7, 6, 2, 8, 3, 0, 9, 4}, [8][10]int{{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}
	for i := 1; i < 8; i++ {
		for j := range 10 {
			permuted[i][j] = first[j]
			for range i - 1 {
				permuted[i][j] = first[permuted[i][j]]
			}
		}
	}
	s, c := m.pick("2", "3", "4", "5", "6", "7", "8", "9")+m.text(10, digits), 0
	for i := range len(s) {
		c = times[c][permuted[(i+1)%8][s[len(s)-1-i]-'0']]
	}
	inverse := [10]int{0, 4, 3, 2, 1, 5, 6, 7, 8, 9}
	return m.maybe(s+string(digits[inverse[c]]), " ", 4, 4, 4)
}

func italian(m *maker) string {
	born := m.birthday()
	day := born.Day() + 40*m.IntN(2)
	consonants := "BCDFGLMNPRSTVZ"
	s := m.text(6, consonants) + born.Format("06") + string("ABCDEHLMPRST"[born.Month()-1]) + fmt.Sprintf("%02d", day) + m.pick("H501", "F205", "L219", "F839", "A944", "D612", "Z112")
	odd := [...]int{1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23}
	sum := 0
	for i := range 15 {
		v := int(s[i] - '0')
		if s[i] >= 'A' {
			v = int(s[i] - 'A')
		}
		if i%2 == 0 {
			v = odd[v]
		}
		sum += v
	}
	return s + string(upper[sum%26])
}

func korean(m *maker) string {
	born := m.birthday()
	first := m.in(1, 2)
	if born.Year() >= 2000 {
		first += 2
	}
	s := born.Format("060102") + fmt.Sprint(first) + m.text(5, digits)
	s += string(digits[(11-weighted(s, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)%11)%10])
	return s[:6] + "-" + s[6:]
}

func mexican(m *maker) string {
	born := m.birthday()
	extra := m.text(1, digits)
	if born.Year() >= 2000 {
		extra = m.text(1, upper)
	}
	s := m.text(1, "GLMRSH") + m.text(1, "AEIOU") + m.text(2, "GLMRSH") + born.Format("060102") + m.pick("H", "M") + m.pick("DF", "JC", "NL", "PL", "VZ", "OC") + m.text(3, "BCDFGLMNPRST") + extra
	sum := 0
	for i, c := range s {
		v := strings.IndexRune("0123456789ABCDEFGHIJKLMN?OPQRSTUVWXYZ", c)
		sum += v * (18 - i)
	}
	return s + string(digits[(10-sum%10)%10])
}

func dutch(m *maker) string {
	s := m.pick("1", "2", "3", "4", "5") + m.text(7, digits)
	check := weighted(s, 9, 8, 7, 6, 5, 4, 3, 2) % 11
	if check == 10 {
		return dutch(m)
	}
	return s + string(digits[check])
}

func norwegian(m *maker) string {
	born := m.birthday()
	s := born.Format("020106") + fmt.Sprintf("%03d", m.in(0, 499))
	if born.Year() >= 2000 {
		s = born.Format("020106") + fmt.Sprintf("%03d", m.in(500, 999))
	}
	first := (11 - weighted(s, 3, 7, 6, 1, 8, 9, 4, 5, 2)%11) % 11
	if first == 10 {
		return norwegian(m)
	}
	s += string(digits[first])
	second := (11 - weighted(s, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)%11) % 11
	if second == 10 {
		return norwegian(m)
	}
	return m.maybe(s+string(digits[second]), " ", 6, 5)
}

func polish(m *maker) string {
	born := m.birthday()
	month := int(born.Month())
	if born.Year() >= 2000 {
		month += 20
	}
	s := fmt.Sprintf("%02d%02d%02d", born.Year()%100, month, born.Day()) + m.text(4, digits)
	return s + string(digits[(10-weighted(s, 1, 3, 7, 9, 1, 3, 7, 9, 1, 3)%10)%10])
}

func portuguese(m *maker) string {
	s := m.pick("1", "2") + m.text(7, digits)
	check := 11 - weighted(s, 9, 8, 7, 6, 5, 4, 3, 2)%11
	if check >= 10 {
		check = 0
	}
	return m.maybe(s+string(digits[check]), " ", 3, 3, 3)
}

func romanian(m *maker) string {
	born := m.birthday()
	first := m.in(1, 2)
	if born.Year() >= 2000 {
		first += 4
	}
	s := fmt.Sprint(first) + born.Format("060102") + fmt.Sprintf("%02d%03d", m.in(1, 46), m.in(1, 999))
	check := weighted(s, 2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9) % 11
	if check == 10 {
		check = 1
	}
	return s + string(digits[check])
}

func swedish(m *maker) string {
	born := m.birthday()
	s := born.Format("060102") + m.text(3, digits)
	s += luhn(s)
	if m.IntN(2) == 0 {
		return s[:6] + "-" + s[6:]
	}
	return born.Format("2006")[:2] + s[:6] + m.pick("-", "") + s[6:]
}

func turkish(m *maker) string {
	s := m.fill("%########")
	d := func(i int) int { return int(s[i] - '0') }
	tenth := ((d(0)+d(2)+d(4)+d(6)+d(8))*7 - d(1) - d(3) - d(5) - d(7)) % 10
	s += string(digits[(tenth+10)%10])
	sum := 0
	for i := range 10 {
		sum += d(i)
	}
	return s + string(digits[sum%10])
}

func southAfrican(m *maker) string {
	s := m.birthday().Format("060102") + m.text(4, digits) + m.pick("0", "1") + "8"
	return s + luhn(s)
}
