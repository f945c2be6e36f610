package detect

import (
	"regexp"
	"strconv"
	"strings"
)

// national are the numbers that states give to persons, by their form and their check digits. form is matched first; its
// groups are what check gets.
var national = []struct {
	finding Finding
	form    numberForm
	check   func(parts []string) bool
}{
	{Finding{"US social security number", Likely}, form(9, `([0-8]\d{2})-(\d{2})-(\d{4})`), func(p []string) bool {
		return p[0] != "000" && p[0] != "666" && p[1] != "00" && p[2] != "0000"
	}},
	{Finding{"British national insurance number", Likely}, form(6, `([A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]) ?\d{2} ?\d{2} ?\d{2} ?[A-D]`), func(p []string) bool {
		return !strings.Contains("BG GB KN NK NT TN ZZ", p[0])
	}},
	{Finding{"NHS number", Likely}, form(10, `(\d{3}) (\d{3}) (\d{4})`), func(p []string) bool {
		check := weighted(joined(p)[:9], 10, 9, 8, 7, 6, 5, 4, 3, 2)
		return (11-check%11)%11 == int(p[2][3]-'0')
	}},
	{Finding{"Spanish identity number", Likely}, form(7, `([XYZ]?\d{7,8})-?([A-Z])`), spanish},
	{Finding{"Italian tax code", Certain}, form(7, `([A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3})([A-Z])`), italian},
	{Finding{"French social security number", Certain}, form(13, `([12]) ?(\d{2}) ?(0[1-9]|1[0-2]|[2-9]\d) ?(\d{2}|2[AB]) ?(\d{3}) ?(\d{3}) ?(\d{2})`), french},
	{Finding{"German tax number", Likely}, form(11, `([1-9]\d) ?(\d{3}) ?(\d{3}) ?(\d{3})`), german},
	{Finding{"Swiss social security number", Certain}, form(13, `(756)\.?(\d{4})\.?(\d{4})\.?(\d{2})`), func(p []string) bool {
		return weighted(joined(p), 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1)%10 == 0
	}},
	{Finding{"Belgian national number", Certain}, form(11, `(\d{2})\.?(\d{2})\.?(\d{2})-?(\d{3})\.?(\d{2})`), func(p []string) bool {
		number, check := joined(p[:4]), atoi(p[4])
		return date(p[1], p[2]) && (97-atoi(number)%97 == check || 97-atoi("2"+number)%97 == check)
	}},
	{Finding{"Swedish identity number", Certain}, form(10, `((?:19|20)?\d{2})(\d{2})(\d{2})([-+]?)(\d{4})`), swedish},
	{Finding{"Finnish identity code", Certain}, form(9, `(\d{2})(\d{2})(\d{2})[-+A-FU-Y](\d{3})([0-9A-FHJ-NPR-Y])`), func(p []string) bool {
		return date(p[1], p[0]) && "0123456789ABCDEFHJKLMNPRSTUVWXY"[atoi(joined(p[:4]))%31] == p[4][0]
	}},
	{Finding{"Norwegian identity number", Certain}, form(11, `(\d{2})(\d{2})(\d{2}) ?(\d{5})`), func(p []string) bool {
		number := joined(p)
		return date(p[1], strconv.Itoa(atoi(p[0])%40)) && weighted(number, 3, 7, 6, 1, 8, 9, 4, 5, 2, 1)%11 == 0 && weighted(number, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)%11 == 0
	}},
	{Finding{"Estonian or Lithuanian identity number", Likely}, form(11, `([1-6]\d{2})(\d{2})(\d{2})(\d{4})`), estonian},
	{Finding{"Romanian identity number", Likely}, form(13, `([1-8]\d{2})(\d{2})(\d{2})(\d{2})(\d{4})`), romanian},
	{Finding{"Turkish identity number", Likely}, form(11, `([1-9]\d{10})`), func(p []string) bool {
		n := p[0]
		return ((weighted(n, 7, -1, 7, -1, 7, -1, 7, -1, 7)%10)+10)%10 == int(n[9]-'0') && weighted(n, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)%10 == int(n[10]-'0')
	}},
	{Finding{"Korean registration number", Certain}, form(13, `(\d{2})(\d{2})(\d{2})-([1-8]\d{6})`), func(p []string) bool {
		number := joined(p)
		return date(p[1], p[2]) && (11-weighted(number, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)%11)%10 == int(number[12]-'0')
	}},
	{Finding{"South African identity number", Likely}, form(13, `(\d{2})(\d{2})(\d{2})(\d{4}[01][89]\d)`), func(p []string) bool {
		return date(p[1], p[2]) && luhn(joined(p))
	}},
	{Finding{"Canadian social insurance number", Likely}, form(9, `([1-79]\d{2})-(\d{3})-(\d{3})`), func(p []string) bool { return luhn(joined(p)) }},
	{Finding{"Chilean identity number", Likely}, form(7, `(\d{1,2})\.?(\d{3})\.?(\d{3})-([0-9Kk])`), chilean},
	{Finding{"Mexican registration code", Certain}, form(7, `([A-Z][AEIOUX][A-Z]{2}\d{2})(\d{2})(\d{2})([HMX][A-Z]{5}[0-9A-Z])(\d)`), mexican},
	{Finding{"Polish identity number", Likely}, form(11, `(\d{2})(\d{2})(\d{2})(\d{5})`), func(p []string) bool {
		month := strconv.Itoa(atoi(p[1]) % 20)
		return date(month, p[2]) && weighted(joined(p), 1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)%10 == 0
	}},
	{Finding{"Brazilian tax number", Certain}, form(11, `(\d{3})\.(\d{3})\.(\d{3})-(\d{2})`), brazilian},
	{Finding{"bare Brazilian tax number", Likely}, form(11, `(\d{11})`), brazilian},
	{Finding{"Indian Aadhaar number", Likely}, form(12, `(\d{4}[ -])?([2-9]\d{3})[ -](\d{4})[ -](\d{4})([ -]\d{1,4})?`), func(p []string) bool {
		return p[0] == "" && p[4] == "" && verhoeff(joined(p)) // cards and IBANs have more groups
	}},
	{Finding{"Chinese identity number", Certain}, form(17, `([1-8]\d{5})((?:19|20)\d{2})(\d{2})(\d{2})(\d{3})([0-9X])`), func(p []string) bool {
		check := weighted(joined(p[:5]), 7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
		return date(p[2], p[3]) && "10X98765432"[check%11] == p[5][0]
	}},
}

// numberForm is the form of a number, and how many digits it has at least.
type numberForm struct {
	text   *regexp.Regexp
	digits int
}

// form compiles the form of a number that no word, and no other number, reaches into.
func form(digits int, text string) numberForm {
	return numberForm{regexp.MustCompile(`(?:^|[^\pL\pN_.+/-])` + text + `(?:$|[^\pL\pN_/-])`), digits}
}

// appendNational adds the numbers of states that a text holds.
func appendNational(found []Finding, text string) []Finding {
	n := 0
	for i := range len(text) {
		if digit(text[i]) {
			n++
		}
	}
	for i := range national {
		k := &national[i]
		if n < k.form.digits {
			continue
		}
		for _, m := range k.form.text.FindAllStringSubmatch(text, 32) {
			if k.check(m[1:]) {
				found = append(found, k.finding)
				break
			}
		}
	}
	return found
}

func atoi(text string) int {
	n, _ := strconv.Atoi(text) // all are digits
	return n
}

// date reports whether a month and a day exist.
func date(month, day string) bool {
	m, d := atoi(month), atoi(day)
	return m >= 1 && m <= 12 && d >= 1 && d <= 31
}

// weighted returns the sum of digits, each times its weight.
func weighted(text string, weights ...int) (sum int) {
	for i, w := range weights {
		sum += w * int(text[i]-'0')
	}
	return sum
}

// swedish checks a personnummer. Without a sign it has its century; times such as 202501021530 look the same, so that years are bounded.
func swedish(p []string) bool {
	year := p[0]
	if p[3] == "" && (len(year) < 4 || year < "1920" || year > "2012") {
		return false
	}
	return date(p[1], p[2]) && luhn(year[len(year)-2:]+p[1]+p[2]+p[4])
}

// estonian checks an isikukood, and the asmens kodas of Lithuania, which has the same form.
func estonian(p []string) bool {
	number := joined(p)
	check := weighted(number, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1) % 11
	if check == 10 {
		check = weighted(number, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3) % 11 % 10
	}
	return date(p[1], p[2]) && check == int(number[10]-'0')
}

// romanian checks a CNP. Its fourth part is a county.
func romanian(p []string) bool {
	number := joined(p)
	check := weighted(number, 2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9) % 11
	if check == 10 {
		check = 1
	}
	return date(p[1], p[2]) && atoi(p[3]) >= 1 && atoi(p[3]) <= 52 && check == int(number[12]-'0')
}

// chilean checks a RUT.
func chilean(p []string) bool {
	number, sum := joined(p[:3]), 0
	for i := range len(number) {
		sum += int(number[len(number)-1-i]-'0') * (2 + i%6)
	}
	return "0123456789K0"[11-sum%11] == strings.ToUpper(p[3])[0]
}

// mexican checks a CURP. Its letters count by their place among the digits and the Spanish alphabet, in which Ñ stands behind N.
func mexican(p []string) bool {
	sum := 0
	for i, c := range []byte(joined(p[:4])) {
		v := int(c - '0')
		if letter(c) {
			if v = int(c-'A') + 10; c > 'N' {
				v++
			}
		}
		sum += v * (18 - i)
	}
	return date(p[1], p[2]) && (10-sum%10)%10 == int(p[4][0]-'0')
}

// spanish checks a DNI, or a NIE with its first letter.
func spanish(p []string) bool {
	number := p[0]
	if i := strings.IndexByte("XYZ", number[0]); i >= 0 {
		number = strconv.Itoa(i) + number[1:]
	}
	return len(number) == 8 && "TRWAGMYFPDXBNJZSQVHLCKE"[atoi(number)%23] == p[1][0]
}

// italian checks a codice fiscale. The values of characters in odd places are those of its decree (D.M. 23 December 1976).
func italian(p []string) bool {
	odd := [...]int{1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23}
	sum := 0
	for i := range len(p[0]) {
		v := int(p[0][i] - '0')
		if letter(p[0][i]) {
			v = int(p[0][i] - 'A')
		}
		if i%2 == 0 {
			v = odd[v]
		}
		sum += v
	}
	return byte('A'+sum%26) == p[1][0] && date("1", strconv.Itoa(atoi(p[0][9:11])%40))
}

// french checks a NIR. The departments of Corsica have letters, which count as 19 and 18.
func french(p []string) bool {
	number := strings.NewReplacer("2A", "19", "2B", "18").Replace(p[3])
	return 97-atoi(p[0]+p[1]+p[2]+number+p[4]+p[5])%97 == atoi(p[6])
}

// german checks an identification number for taxes: of the first ten digits, one comes two or three times.
func german(p []string) bool {
	number := joined(p)
	var count [10]int
	twice, product := 0, 10
	for i := range 10 {
		d := int(number[i] - '0')
		if count[d]++; count[d] == 2 {
			twice++
		}
		sum := (d + product) % 10
		if sum == 0 {
			sum = 10
		}
		product = sum * 2 % 11
	}
	for _, n := range count {
		if n > 3 {
			return false
		}
	}
	return twice == 1 && (11-product)%10 == int(number[10]-'0')
}

// brazilian checks a CPF.
func brazilian(p []string) bool {
	number := joined(p)
	if strings.Trim(number, number[:1]) == "" {
		return false
	}
	first := weighted(number, 10, 9, 8, 7, 6, 5, 4, 3, 2) * 10 % 11 % 10
	second := weighted(number, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2) * 10 % 11 % 10
	return first == int(number[9]-'0') && second == int(number[10]-'0')
}

// verhoeff reports whether digits have a check digit of Verhoeff's, which is computed in the dihedral group of order 10.
func verhoeff(text string) bool {
	permuted := [...]string{"0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258"}
	product := 0
	for i := range len(text) {
		d := int(permuted[i%8][text[len(text)-1-i]-'0'] - '0')
		switch {
		case product < 5 && d < 5:
			product = (product + d) % 5
		case product < 5:
			product = 5 + (product+d-5)%5
		case d < 5:
			product = 5 + (product-5-d+5)%5
		default:
			product = (product - d + 5) % 5
		}
	}
	return product == 0
}
