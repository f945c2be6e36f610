package detect

import "strings"

// number is a piece of a text with groups of digits, with one separator between two.
type number struct {
	groups     []string
	separators string // one byte between two groups
}

// joined returns the digits of some groups.
func joined(groups []string) string { return strings.Join(groups, "") }

// lengths reports whether groups have these lengths.
func lengths(groups []string, want ...int) bool {
	if len(groups) != len(want) {
		return false
	}
	for i, g := range groups {
		if len(g) != want[i] {
			return false
		}
	}
	return true
}

// numbers calls do for each number of a text that no word reaches into, until do returns true. It reports whether it did.
func numbers(text string, do func(n *number) bool) bool {
	for i := 0; i < len(text); {
		if !digit(text[i]) {
			i++
			continue
		}
		before := at(text, i-1)
		var n number
		var separators []byte
		for {
			end := run(text, i, digit)
			n.groups = append(n.groups, text[i:end])
			if i = end; strings.IndexByte(" -./", at(text, i)) < 0 || at(text, i) == 0 || !digit(at(text, i+1)) {
				break
			}
			separators = append(separators, text[i])
			i++
		}
		n.separators = string(separators)
		if after := at(text, i); word(before) || before == '.' || before == '$' || word(after) {
			continue
		}
		if do(&n) {
			return true
		}
	}
	return false
}

// window calls do for each list of so many neighboring groups that have the same separator, one of allowed, between them.
func (n *number) window(size int, allowed string, do func(groups []string) bool) bool {
	for i := 0; i+size <= len(n.groups); i++ {
		between := n.separators[i : i+size-1]
		if between != "" && (strings.IndexByte(allowed, between[0]) < 0 || strings.Trim(between, between[:1]) != "") {
			continue
		}
		if do(n.groups[i : i+size]) {
			return true
		}
	}
	return false
}

// longer reports whether more than so many groups of four follow each other.
func (n *number) longer(than int) bool {
	fours := 0
	for i, g := range n.groups {
		if len(g) != 4 || i > 0 && strings.IndexByte(" -", n.separators[i-1]) < 0 {
			fours = 0
		}
		if len(g) == 4 {
			fours++
		}
		if fours > than {
			return true
		}
	}
	return false
}

// luhn reports whether digits have a check digit of ISO/IEC 7812-1, annex B.
func luhn(text string) bool {
	sum := 0
	for i := range len(text) {
		d := int(text[len(text)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// cardRanges are the ranges of the first digits that networks issue, and how long their numbers are.
var cardRanges = []struct {
	first, last string
	lengths     string // separated by spaces
}{
	{"34", "34", "15"}, {"37", "37", "15"}, // American Express
	{"300", "305", "14"}, {"36", "36", "14"}, {"38", "39", "14"}, // Diners
	{"3528", "3589", "16"},                     // JCB
	{"4", "4", "16"},                           // Visa
	{"51", "55", "16"}, {"2221", "2720", "16"}, // Mastercard
	{"6011", "6011", "16"}, {"644", "649", "16"}, {"65", "65", "16"}, // Discover
	{"62", "62", "16 19"},                                                                          // UnionPay
	{"5018", "5018", "16"}, {"5020", "5020", "16"}, {"5038", "5038", "16"}, {"6759", "6763", "16"}, // Maestro
}

// card reports whether digits are the number of a payment card.
func card(text string) bool {
	if len(text) < 14 || len(text) > 19 || strings.Trim(text, text[:1]) == "" || !luhn(text) {
		return false
	}
	for _, r := range cardRanges {
		if start := text[:len(r.first)]; start >= r.first && start <= r.last {
			for _, length := range strings.Fields(r.lengths) {
				if len(text) == 10*int(length[0]-'0')+int(length[1]-'0') {
					return true
				}
			}
		}
	}
	return false
}

// hasCard reports whether a text holds the number of a payment card, in one piece or in the groups that cards show.
func hasCard(text string) bool {
	if len(text) < 14 {
		return false
	}
	return numbers(text, func(n *number) bool {
		grouped := func(want ...int) bool {
			return n.window(len(want), " -", func(g []string) bool { return lengths(g, want...) && card(joined(g)) })
		}
		for _, g := range n.groups {
			if len(g) >= 14 && len(g) <= 16 && len(n.groups) <= 3 && card(g) && strings.Trim(n.separators, " -/") == "" {
				return true
			}
		}
		if n.longer(4) {
			return false // numbers of parcels go on in fours
		}
		return grouped(4, 4, 4, 4) || grouped(4, 6, 5) || grouped(4, 6, 4) || grouped(4, 4, 4, 4, 3)
	})
}

// ibanLengths are those of the countries in the registry of ISO 13616.
var ibanLengths = map[string]int{
	"AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28, "CH": 21,
	"CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27,
	"GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26,
	"IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24,
	"ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29,
	"RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "VA": 22,
	"VG": 24, "XK": 20,
}

// hasIBAN reports whether a text holds an IBAN, in one piece or in groups of four.
func hasIBAN(text string) bool {
	for i := 0; i+15 <= len(text); i++ {
		if !upper(text[i]) || !upper(text[i+1]) || !digit(text[i+2]) || !digit(text[i+3]) || word(at(text, i-1)) {
			continue
		}
		length := ibanLengths[text[i:i+2]]
		if length == 0 {
			continue
		}
		compact := make([]byte, 0, length)
		at := i
		for ; at < len(text) && len(compact) < length; at++ {
			if text[at] == ' ' && len(compact)%4 == 0 && text[at-1] != ' ' {
				continue
			}
			if !upperDigit(text[at]) {
				break
			}
			compact = append(compact, text[at])
		}
		if len(compact) == length && (at == len(text) || !word(text[at])) && mod97(string(compact[4:])+string(compact[:4])) == 1 {
			return true
		}
	}
	return false
}

// mod97 returns the remainder of a number whose letters stand for 10 to 35 (ISO 7064).
func mod97(text string) int {
	rest := 0
	for i := range len(text) {
		if c := text[i]; digit(c) {
			rest = (rest*10 + int(c-'0')) % 97
		} else {
			rest = (rest*100 + int(c-'A') + 10) % 97
		}
	}
	return rest
}

// callingCodes are those of ITU-T E.164 with one or two digits; what is not among them has three.
const callingCodes = " 1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 86 " +
	"90 91 92 93 94 95 98 "

// hasPhone reports whether a text holds a telephone number: with + and a calling code in the international form, or as
// North America writes it in groups. The grammar is small on purpose; other national forms are not found.
func hasPhone(text string) bool {
	for i := 0; ; i++ {
		next := strings.IndexByte(text[i:], '+')
		if next < 0 {
			break
		}
		if i += next; international(text, i) {
			return true
		}
	}
	area := func(g string) bool { return g[0] >= '2' && g[1:] != "11" }
	grouped := numbers(text, func(n *number) bool {
		return len(n.groups) <= 4 && n.window(3, "-.", func(g []string) bool {
			return lengths(g, 3, 3, 4) && area(g[0]) && area(g[1])
		})
	})
	if grouped || !strings.ContainsRune(text, '(') {
		return grouped
	}
	for i := range len(text) { // (212) 555-0123
		if text[i] == '(' && at(text, i+4) == ')' && !word(at(text, i-1)) && len(text) >= i+5 && numbers(text[i+1:i+4], func(n *number) bool {
			return len(n.groups[0]) == 3 && area(n.groups[0])
		}) {
			rest := strings.TrimLeft(text[i+5:], " ")
			if len(rest) >= 8 && run(rest, 0, digit) == 3 && strings.IndexByte("-. ", rest[3]) >= 0 && run(rest, 4, digit) == 8 && area(rest[:3]) {
				return true
			}
		}
	}
	return false
}

// international reports whether a telephone number stands behind the + at a place of a text.
func international(text string, plus int) bool {
	if before := at(text, plus-1); word(before) || before == '+' || before == '/' {
		return false
	}
	var number []byte
	end := plus + 1 // of its digits: a word may follow behind a space
	for i := end; i < len(text) && i < plus+28; i++ {
		if c := text[i]; digit(c) {
			number, end = append(number, c), i+1
		} else if strings.IndexByte(" -.()", c) < 0 || i == plus+1 {
			break
		}
	}
	if word(at(text, end)) || len(number) < 9 || len(number) > 15 || number[0] == '0' || strings.Trim(string(number), string(number[:1])) == "" {
		return false
	}
	n := string(number)
	switch {
	case n[0] == '1':
		return len(n) == 11 && n[1] >= '2' && n[4] >= '2'
	case strings.Contains(callingCodes, " "+n[:1]+" "):
		return len(n) == 11
	case strings.Contains(callingCodes, " "+n[:2]+" "):
		return n[2] != '0'
	}
	return strings.IndexByte("23456789", n[0]) >= 0 && n[:3] != "999" && len(n) >= 10
}
