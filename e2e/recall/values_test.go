package recall_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math/big"
	"math/rand/v2"
	"strings"
	"time"
)

const (
	digits   = "0123456789"
	lower    = "abcdefghijklmnopqrstuvwxyz"
	upper    = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	alnum    = digits + upper + lower
	base64ID = alnum + "-_"
	hexes    = "0123456789abcdef"
)

// A maker makes values: the same ones for the same seed. Nothing in it is a person's or a service's: all is drawn.
type maker struct{ *rand.Rand }

func newMaker(seed uint64) *maker { return &maker{rand.New(rand.NewPCG(seed, 0x7e57))} }

// text draws n characters of an alphabet.
func (m *maker) text(n int, alphabet string) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = alphabet[m.IntN(len(alphabet))]
	}
	return string(out)
}

func (m *maker) bytes(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(m.Uint32())
	}
	return out
}

func (m *maker) pick(from ...string) string { return from[m.IntN(len(from))] }

// in draws from [from, to].
func (m *maker) in(from, to int) int { return from + m.IntN(to-from+1) }

// fill replaces each # of a pattern by a digit, and each % by one from 1 to 9.
func (m *maker) fill(pattern string) string {
	out := []byte(pattern)
	for i, c := range out {
		switch c {
		case '#':
			out[i] = digits[m.IntN(10)]
		case '%':
			out[i] = digits[1+m.IntN(9)]
		}
	}
	return string(out)
}

func (m *maker) birthday() time.Time {
	return time.Date(m.in(1940, 2006), time.Month(m.in(1, 12)), m.in(1, 28), 0, 0, 0, 0, time.UTC)
}

func (m *maker) recent() time.Time {
	return time.Date(2025, time.Month(m.in(1, 12)), m.in(1, 28), m.IntN(24), m.IntN(60), m.IntN(60), m.IntN(1000)*1e6, time.UTC)
}

func (m *maker) uuid() string {
	b := m.bytes(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// weighted is the sum of the digits times their weights.
func weighted(s string, weights ...int) (sum int) {
	for i, w := range weights {
		sum += int(s[i]-'0') * w
	}
	return sum
}

// luhn is the check digit of ISO/IEC 7812-1 that s lacks.
func luhn(s string) string {
	sum := 0
	for i := range len(s) {
		d := int(s[len(s)-1-i] - '0')
		if i%2 == 0 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return string(digits[(10-sum%10)%10])
}

// wrongDigit replaces the last digit by another.
func (m *maker) wrongDigit(s string) string {
	last := s[len(s)-1] - '0'
	return s[:len(s)-1] + string(digits[(int(last)+m.in(1, 9))%10])
}

// grouped puts sep between groups of the given sizes.
func grouped(s, sep string, sizes ...int) string {
	var parts []string
	for _, n := range sizes {
		n = min(n, len(s))
		parts, s = append(parts, s[:n]), s[n:]
	}
	if s != "" {
		parts = append(parts, s)
	}
	return strings.Join(parts, sep)
}

// card is a payment card: the issuers' public ranges and lengths, and a check digit.
func (m *maker) card() string {
	form := m.pick("4##############", "4##############", "5"+m.pick("1", "2", "3", "4", "5")+"#############", "22"+fmt.Sprint(m.in(21, 99))+"###########",
		"3"+m.pick("4", "7")+"############", "6011###########", "65#############", "35"+fmt.Sprint(m.in(28, 89))+"###########", "36###########")
	number := m.fill(form)
	return number + luhn(number)
}

// writtenCard is a card as people write it: in groups.
func (m *maker) writtenCard() string {
	number, sep := m.card(), m.pick(" ", "-", " ")
	switch len(number) {
	case 16:
		return grouped(number, sep, 4, 4, 4, 4)
	case 15:
		return grouped(number, sep, 4, 6, 5)
	}
	return grouped(number, sep, 4, 6, 4)
}

// ibanForms are the national parts of the SWIFT registry: n a digit, a a capital letter, c either.
var ibanForms = map[string]string{
	"DE": "nnnnnnnnnnnnnnnnnn", "FR": "nnnnnnnnnnccccccccccc" + "nn", "GB": "aaaannnnnnnnnnnnnn", "NL": "aaaannnnnnnnnn", "ES": "nnnnnnnnnnnnnnnnnnnn",
	"IT": "annnnnnnnnncccccccccccc", "PL": "nnnnnnnnnnnnnnnnnnnnnnnn", "SE": "nnnnnnnnnnnnnnnnnnnn", "CH": "nnnnncccccccccccc", "AT": "nnnnnnnnnnnnnnnn",
	"BE": "nnnnnnnnnnnn", "PT": "nnnnnnnnnnnnnnnnnnnnn", "IE": "aaaannnnnnnnnnnnnn", "NO": "nnnnnnnnnnn", "DK": "nnnnnnnnnnnnnn", "FI": "nnnnnnnnnnnnnn",
	"CZ": "nnnnnnnnnnnnnnnnnnnn", "RO": "aaaacccccccccccccccc", "GR": "nnnnnnncccccccccccccccc", "AE": "nnnnnnnnnnnnnnnnnnn", "SA": "nncccccccccccccccccc",
	"TR": "nnnnnncccccccccccccccc", "LU": "nnnccccccccccccc", "HU": "nnnnnnnnnnnnnnnnnnnnnnnn",
}

var ibanCountries = strings.Fields("AE AT BE CH CZ DE DE DE DK ES ES FI FR FR GB GB GR HU IE IT IT LU NL NL NO PL PT RO SA SE TR")

func (m *maker) iban() string {
	country := m.pick(ibanCountries...)
	var national strings.Builder
	for _, c := range ibanForms[country] {
		switch c {
		case 'n':
			national.WriteString(m.text(1, digits))
		case 'a':
			national.WriteString(m.text(1, upper))
		default:
			national.WriteString(m.text(1, digits+upper))
		}
	}
	var number strings.Builder
	for _, c := range national.String() + country + "00" {
		if c >= 'A' {
			fmt.Fprint(&number, c-'A'+10)
		} else {
			number.WriteRune(c)
		}
	}
	n, _ := new(big.Int).SetString(number.String(), 10)
	return fmt.Sprintf("%s%02d%s", country, 98-new(big.Int).Mod(n, big.NewInt(97)).Int64(), national.String())
}

// writtenIBAN is an IBAN on paper: groups of four.
func (m *maker) writtenIBAN() string { return grouped(m.iban(), " ", 4, 4, 4, 4, 4, 4, 4, 4) }

// wrongIBAN looks like an IBAN, and its check digits do not fit.
func (m *maker) wrongIBAN() string {
	s := m.iban()
	check := (int(s[2]-'0')*10+int(s[3]-'0')+m.in(1, 60))%97 + 2
	if fmt.Sprintf("%02d", check) == s[2:4] {
		check = 2 + (check-1)%97
	}
	return fmt.Sprintf("%s%02d%s", s[:2], check, s[4:])
}

// Given names and surnames that are common in several countries; a person's are drawn from each on its own.
var (
	givenNames = strings.Fields("Anna Ben Carla David Elena Farid Grace Henrik Inês Jakub Keiko Liam Marta Noah Olga Pedro Quentin Rosa Samir Tove Uma Viktor Wanda Xavier Yara Zoë")
	surnames   = strings.Fields("Almeida Bauer Costa Dubois Eriksson Fischer García Hoffmann Ivanov Jansen Kowalski Lopez Moreau Nowak Okafor Patel Rossi Schmidt Tanaka Ustinov Visser Weber Yilmaz Zhang")
)

// email is an address at a domain that nobody has, since its name is drawn; the top-level domains are real.
func (m *maker) email() string {
	given, family := ascii(m.pick(givenNames...)), ascii(m.pick(surnames...))
	local := m.pick(given+"."+family, given[:1]+family, family+fmt.Sprint(m.in(1, 99)), given+"_"+family, given+"+"+m.pick("news", "shop", "work"), given+"-"+family)
	domain := m.text(m.in(5, 10), lower) + m.pick(".com", ".org", ".de", ".fr", ".co.uk", ".io", ".net", ".nl", ".com.br", ".health", ".se")
	if m.IntN(4) == 0 {
		domain = m.pick("mail", "corp", "eu-1") + "." + domain
	}
	if m.IntN(8) == 0 {
		return strings.ToUpper(local[:1]) + local[1:] + "@" + domain
	}
	return strings.ToLower(local) + "@" + domain
}

// ascii writes a name without its accents.
func ascii(s string) string {
	return strings.NewReplacer("ê", "e", "ë", "e", "í", "i", "ö", "o", "ã", "a").Replace(s)
}

// phone is a number in the international form, compact or in groups.
func (m *maker) phone() string {
	form := m.pick("+1 "+m.pick("212", "415", "512", "617", "303", "404", "206")+" %## ####", "+44 7"+m.pick("4", "5", "7", "8", "9")+"## ######", "+44 20 7### ####",
		"+49 15"+m.pick("1", "2", "7")+" ########", "+49 30 %#######", "+33 6 ## ## ## ##", "+33 1 4# ## ## ##", "+34 6## ### ###", "+39 3"+m.pick("2", "3", "4")+"# #######",
		"+31 6 %#######", "+46 70 ### ## ##", "+48 5## ### ###", "+55 11 9%### ####", "+91 9#### #####", "+81 90 %### ####", "+61 4## ### ###", "+41 79 ### ## ##", "+353 87 ### ####")
	form = strings.Replace(form, "%## ####", m.pick("2", "3", "4", "6", "7", "8")+"## ####", 1)
	number := m.fill(form)
	switch m.IntN(4) {
	case 0:
		return number
	case 1:
		return strings.ReplaceAll(number, " ", "-")
	}
	return strings.ReplaceAll(number, " ", "")
}

// northAmerican is a telephone number as the United States and Canada write it.
func (m *maker) northAmerican() string {
	area, exchange := m.pick("212", "415", "512", "617", "303", "404", "206", "416"), m.pick("2", "3", "4", "6", "7", "8")+m.pick("23", "40", "58", "67", "72", "89")
	return fmt.Sprintf(m.pick("(%s) %s-%s", "%s-%s-%s", "%s.%s.%s", "1-%s-%s-%s"), area, exchange, m.fill("####"))
}

// jwt is a JSON Web Token (RFC 7519) in the compact form, signed by nobody; some are encrypted ones of five parts.
func (m *maker) jwt() string {
	enc := base64.RawURLEncoding.EncodeToString
	if m.IntN(6) == 0 {
		head := `{"alg":"` + m.pick("RSA-OAEP-256", "dir", "ECDH-ES") + `","enc":"` + m.pick("A256GCM", "A128CBC-HS256") + `"}`
		return strings.Join([]string{enc([]byte(head)), enc(m.bytes(256)), enc(m.bytes(12)), enc(m.bytes(m.in(40, 200))), enc(m.bytes(16))}, ".")
	}
	head := m.pick(`{"alg":"RS256","typ":"JWT","kid":"`+m.text(8, hexes)+`"}`, `{"typ":"JWT","alg":"HS256"}`, `{"alg":"ES256","kid":"`+m.text(12, base64ID)+`"}`,
		`{"kid":"`+m.uuid()+`","typ":"at+jwt","alg":"EdDSA"}`)
	issued := m.recent().Unix()
	body := fmt.Sprintf(`{"iss":"https://id.%s.io/","sub":"%s","aud":"%s","iat":%d,"exp":%d}`, m.text(6, lower), m.text(16, alnum), m.text(7, lower), issued, issued+3600)
	return enc([]byte(head)) + "." + enc([]byte(body)) + "." + enc(m.bytes(m.in(1, 4)*32+32))
}

// privateKey is a PEM block (RFC 7468) or OpenPGP's armor of a private key: bytes of chance in the right frame.
func (m *maker) privateKey() string {
	kind := m.pick("RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK", "DSA PRIVATE KEY")
	text := base64.StdEncoding.EncodeToString(m.bytes(m.in(120, 600)))
	var lines strings.Builder
	for len(text) > 64 {
		lines.WriteString(text[:64] + "\n")
		text = text[64:]
	}
	blank := ""
	if strings.HasPrefix(kind, "PGP") {
		blank = "\n"
	}
	return "-----BEGIN " + kind + "-----\n" + blank + lines.String() + text + "\n-----END " + kind + "-----\n"
}

// publicKey is a look-alike: the same frame around a public key or a certificate.
func (m *maker) publicKey() string {
	kind, text := m.pick("PUBLIC KEY", "CERTIFICATE", "CERTIFICATE REQUEST", "RSA PUBLIC KEY"), base64.StdEncoding.EncodeToString(m.bytes(m.in(120, 300)))
	return "-----BEGIN " + kind + "-----\n" + grouped(text, "\n", 64, 64, 64, 64, 64, 64) + "\n-----END " + kind + "-----\n"
}

// password is one that a person or a generator chose.
func (m *maker) password() string {
	words := []string{"Sommer", "dragon", "Kaffee", "letmein", "Paris", "tiger", "Winter", "monkey", "qwertz", "Lisboa"}
	return m.pick(m.pick(words...)+m.fill("####")+m.pick("!", "", "#"), m.text(m.in(8, 16), alnum), m.text(12, alnum+"!$%&*"), m.pick(words...)+"-"+m.pick(words...)+"-"+m.fill("##"))
}

// urlPassword is a URL with a user and a password.
func (m *maker) urlPassword() string {
	host := m.pick("db", "cache", "mq", "ftp", "git") + "-" + m.text(3, lower) + "." + m.pick("internal", "svc.cluster.local", m.text(6, lower)+".com")
	user, pass := m.pick("app", "root", "svc_orders", "admin", "reader", m.text(6, lower)), m.text(m.in(8, 20), alnum)
	if m.IntN(4) == 0 {
		pass = m.text(5, alnum) + "%40" + m.text(5, alnum) + "!"
	}
	form := m.pick("postgres://%s:%s@%s:5432/orders?sslmode=require", "mysql://%s:%s@%s/shop", "mongodb+srv://%s:%s@%s/claims", "amqps://%s:%s@%s:5671/vhost",
		"redis://%s:%s@%s:6379/0", "https://%s:%s@%s/repo.git", "ftp://%s:%s@%s/in/", "postgresql://%s:%s@%s/ledger", "smtps://%s:%s@%s:465")
	return fmt.Sprintf(form, user, pass, host)
}

// plainURL is a look-alike: a URL with an @, a colon or a user, and no password.
func (m *maker) plainURL() string {
	host := m.text(7, lower) + m.pick(".com", ".io", ".internal")
	return fmt.Sprintf(m.pick("https://%s/users/@%s/posts:latest", "postgres://%s:5432/%s", "ssh://git@%s:7999/%s.git", "https://%s/a/b:c?x=%s@v2", "s3://%s/exports/%s.parquet", "redis://%s:6379/1?name=%s"),
		host, m.text(5, lower))
}

// serviceKeys make credentials in the forms that services document, by service.
var serviceKeys = map[string]func(m *maker) string{
	"1password": func(m *maker) string { return "ops_" + "eyJ" + m.text(250, alnum) },
	"age":       func(m *maker) string { return "AGE-SECRET-KEY-1" + m.text(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L") },
	"airtable":  func(m *maker) string { return "pat" + m.text(14, alnum) + "." + m.text(64, hexes) },
	"anthropic": func(m *maker) string { return "sk-ant-api03-" + m.text(93, base64ID) + "AA" },
	"atlassian": func(m *maker) string {
		return "ATATT3xFfGF0" + m.text(171, base64ID) + "=" + m.text(8, digits+"ABCDEF")
	},
	"aws": func(m *maker) string { return m.pick("AKIA", "ASIA", "AKIA") + m.text(16, upper+"234567") },
	"azurestorage": func(m *maker) string {
		return "DefaultEndpointsProtocol=https;AccountName=" + m.text(9, lower) + ";AccountKey=" + base64.StdEncoding.EncodeToString(m.bytes(64)) + ";EndpointSuffix=core.windows.net"
	},
	"brevo":        func(m *maker) string { return "xkeysib-" + m.text(64, hexes) + "-" + m.text(16, alnum) },
	"contentful":   func(m *maker) string { return "CFPAT-" + m.text(43, base64ID) },
	"databricks":   func(m *maker) string { return "dapi" + m.text(32, hexes) },
	"digitalocean": func(m *maker) string { return m.pick("dop_v1_", "doo_v1_") + m.text(64, hexes) },
	"docker":       func(m *maker) string { return "dckr_pat_" + m.text(27, base64ID) },
	"doppler":      func(m *maker) string { return "dp.pt." + m.text(43, alnum) },
	"duffel":       func(m *maker) string { return "duffel_live_" + m.text(43, base64ID) },
	"dynatrace":    func(m *maker) string { return "dt0c01." + m.text(24, upper+digits) + "." + m.text(64, upper+digits) },
	"easypost":     func(m *maker) string { return "EZAK" + m.text(54, alnum) },
	"figma":        func(m *maker) string { return "figd_" + m.text(40, base64ID) },
	"github":       githubToken,
	"gitlab":       func(m *maker) string { return m.pick("glpat-", "glpat-", "gldt-", "glrt-") + m.text(20, base64ID) },
	"google":       func(m *maker) string { return "AIza" + m.text(35, base64ID) },
	"googleoauth":  func(m *maker) string { return "GOCSPX-" + m.text(28, base64ID) },
	"grafana":      func(m *maker) string { return "glsa_" + m.text(32, alnum) + "_" + m.text(8, hexes) },
	"groq":         func(m *maker) string { return "gsk_" + m.text(52, alnum) },
	"huggingface":  func(m *maker) string { return "hf_" + m.text(34, upper+lower) },
	"langchain":    func(m *maker) string { return "lsv2_pt_" + m.text(32, hexes) + "_" + m.text(10, hexes) },
	"linear":       func(m *maker) string { return "lin_api_" + m.text(40, alnum) },
	"mailchimp":    func(m *maker) string { return m.text(32, hexes) + "-us" + fmt.Sprint(m.in(1, 21)) },
	"mailgun":      func(m *maker) string { return "key-" + m.text(32, hexes) },
	"newrelic":     func(m *maker) string { return "NRAK-" + m.text(27, upper+digits) },
	"npm":          func(m *maker) string { return "npm_" + checked(m.text(30, alnum)) },
	"openai": func(m *maker) string {
		return m.pick("sk-"+m.text(20, alnum)+"T3BlbkFJ"+m.text(20, alnum), "sk-proj-"+m.text(74, base64ID)+"T3BlbkFJ"+m.text(74, base64ID))
	},
	"perplexity":  func(m *maker) string { return "pplx-" + m.text(48, alnum) },
	"planetscale": func(m *maker) string { return "pscale_tkn_" + m.text(43, base64ID) },
	"postman":     func(m *maker) string { return "PMAK-" + m.text(24, hexes) + "-" + m.text(34, hexes) },
	"pulumi":      func(m *maker) string { return "pul-" + m.text(40, hexes) },
	"pypi":        func(m *maker) string { return "pypi-AgEIcHlwaS5vcmc" + m.text(m.in(120, 160), base64ID) },
	"replicate":   func(m *maker) string { return "r8_" + m.text(37, alnum) },
	"rubygems":    func(m *maker) string { return "rubygems_" + m.text(48, hexes) },
	"sendgrid":    func(m *maker) string { return "SG." + m.text(22, base64ID) + "." + m.text(43, base64ID) },
	"sentry":      func(m *maker) string { return "sntrys_eyJ" + m.text(150, alnum) + "_" + m.text(43, alnum) },
	"shippo":      func(m *maker) string { return "shippo_live_" + m.text(40, hexes) },
	"shopify":     func(m *maker) string { return m.pick("shpat_", "shpss_", "shpca_") + m.text(32, hexes) },
	"slack":       slackToken,
	"square": func(m *maker) string {
		return m.pick("sq0atp-"+m.text(22, base64ID), "sq0csp-"+m.text(43, base64ID), "EAAA"+m.text(60, base64ID))
	},
	"stripe": func(m *maker) string {
		return m.pick("sk_live_", "rk_live_", "sk_test_") + m.text(m.pick2(24, 99), alnum)
	},
	"stripehook": func(m *maker) string { return "whsec_" + m.text(32, alnum) },
	"supabase":   func(m *maker) string { return "sbp_" + m.text(40, hexes) },
	"telegram":   func(m *maker) string { return m.fill("%#########") + ":AA" + m.text(33, base64ID) },
	"terraform":  func(m *maker) string { return m.text(14, alnum) + ".atlasv1." + m.text(67, base64ID) },
	"typeform":   func(m *maker) string { return "tfp_" + m.text(44, base64ID) + "_" + m.text(14, alnum) },
	"vault":      func(m *maker) string { return "hvs." + m.text(91, base64ID) },
}

func (m *maker) pick2(a, b int) int { return []int{a, b}[m.IntN(2)] }

// checked appends the checksum of GitHub's and npm's tokens: CRC32 of what was drawn, six digits of base 62.
func checked(text string) string {
	sum, out := crc32.ChecksumIEEE([]byte(text)), make([]byte, 6)
	for i := range out {
		out[5-i] = alnum[sum%62]
		sum /= 62
	}
	return text + string(out)
}

func githubToken(m *maker) string {
	if m.IntN(3) == 0 {
		return "github_pat_" + m.text(22, alnum) + "_" + m.text(59, alnum)
	}
	return m.pick("ghp_", "gho_", "ghu_", "ghs_") + checked(m.text(30, alnum))
}

func slackToken(m *maker) string {
	return m.pick("xoxb-"+m.fill("%###########-%############-")+m.text(24, alnum), "xoxp-"+m.fill("%###########-%############-%############-")+m.text(32, hexes),
		"xapp-1-A"+m.text(10, upper+digits)+"-"+m.fill("%############")+"-"+m.text(64, hexes),
		"https://hooks.slack.com/services/T"+m.text(10, upper+digits)+"/B"+m.text(10, upper+digits)+"/"+m.text(24, alnum))
}

// hl7 is a message of HL7 version 2 with segments that name a patient; segments end with a carriage return.
func (m *maker) hl7() string {
	when, born := m.recent().Format("20060102150405"), m.birthday().Format("20060102")
	msh := fmt.Sprintf("MSH|^~\\&|%s|%s|EHR|MAIN|%s||%s|%s|P|2.%d", m.pick("LAB", "ADT1", "PHARM"), m.text(5, upper), when,
		m.pick("ADT^A01", "ADT^A08", "ORU^R01", "SIU^S12", "ORM^O01"), m.text(10, digits), m.in(3, 8))
	pid := fmt.Sprintf("PID|1||%s^^^HOSP^MR||%s^%s||%s|%s", m.fill("%######"), m.pick(surnames...), m.pick(givenNames...), born, m.pick("F", "M", "U"))
	return strings.Join([]string{msh, "EVN||" + when, pid, "PV1|1|I|" + m.fill("W##^B##")}, "\r") + "\r"
}

// pageToken is a look-alike: what lists return to be continued, base64 of JSON or of bytes.
func (m *maker) pageToken() string {
	if m.IntN(2) == 0 {
		return base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf(`{"after":%d,"shard":%d}`, m.in(1, 1e6), m.in(1, 64))))
	}
	return base64.StdEncoding.EncodeToString(m.bytes(m.in(24, 60)))
}
