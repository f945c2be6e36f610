package detect

import (
	"encoding/base64"
	"regexp"
	"strings"
)

// keyForm is the form of the keys of a service: what they start with, and how many characters of which class follow.
type keyForm struct {
	service, prefix string
	class           func(byte) bool
	from, to        int
}

func alnum(c byte) bool      { return letter(c) || digit(c) }
func base64URL(c byte) bool  { return alnum(c) || c == '-' || c == '_' }
func upperDigit(c byte) bool { return upper(c) || digit(c) }
func hexDigit(c byte) bool   { return digit(c) || c >= 'a' && c <= 'f' }
func dotted(c byte) bool     { return base64URL(c) || c == '.' }
func dashed(c byte) bool     { return alnum(c) || c == '-' }

// keyForms are forms that the services document, or that their own scanners use.
var keyForms = []keyForm{
	{"AWS", "AKIA", upperDigit, 16, 16}, {"AWS", "ASIA", upperDigit, 16, 16},
	{"GitHub", "ghp_", alnum, 36, 255}, {"GitHub", "gho_", alnum, 36, 255}, {"GitHub", "ghu_", alnum, 36, 255},
	{"GitHub", "ghs_", alnum, 36, 255}, {"GitHub", "ghr_", alnum, 36, 255}, {"GitHub", "github_pat_", base64URL, 60, 255},
	{"GitLab", "glpat-", dotted, 20, 255}, {"GitLab", "gldt-", dotted, 20, 255}, {"GitLab", "glrt-", dotted, 20, 255},
	{"Slack", "xoxb-", dashed, 24, 255}, {"Slack", "xoxp-", dashed, 24, 255}, {"Slack", "xoxa-", dashed, 24, 255},
	{"Slack", "xapp-", dashed, 24, 255}, {"Slack", "hooks.slack.com/services/T", slashed, 20, 255},
	{"Stripe", "sk_live_", alnum, 24, 255}, {"Stripe", "rk_live_", alnum, 24, 255}, {"Stripe", "sk_test_", alnum, 24, 255},
	{"Stripe", "whsec_", base64Any, 24, 255},
	{"Google", "AIza", base64URL, 35, 35}, {"Google", "GOCSPX-", base64URL, 24, 40}, {"Google", "ya29.", base64URL, 30, 2048},
	{"SendGrid", "SG.", dotted, 60, 70}, {"npm", "npm_", alnum, 36, 36}, {"PyPI", "pypi-AgEIcHlwaS5vcmc", base64URL, 50, 2048},
	{"OpenAI", "sk-proj-", base64URL, 40, 255}, {"OpenAI", "sk-svcacct-", base64URL, 40, 255},
	{"Anthropic", "sk-ant-", base64URL, 40, 255}, {"Hugging Face", "hf_", alnum, 34, 40},
	{"HashiCorp Vault", "hvs.", base64URL, 24, 255}, {"HashiCorp Vault", "hvb.", base64URL, 24, 512},
	{"DigitalOcean", "dop_v1_", hexDigit, 64, 64}, {"Shopify", "shpat_", hexAny, 32, 32}, {"Shopify", "shpss_", hexAny, 32, 32},
	{"Databricks", "dapi", hexDigit, 32, 34}, {"Grafana", "glsa_", base64URL, 40, 60}, {"Grafana", "glc_", base64Any, 32, 512},
	{"Twilio", "SK", hexDigit, 32, 32}, {"Mailgun", "key-", hexDigit, 32, 32}, {"Square", "sq0csp-", base64URL, 43, 43},
	{"Square", "sq0atp-", base64URL, 22, 22}, {"Linear", "lin_api_", alnum, 40, 40}, {"Postman", "PMAK-", dashed, 59, 59},
	{"Notion", "ntn_", alnum, 43, 50}, {"Docker", "dckr_pat_", base64URL, 27, 40}, {"New Relic", "NRAK-", upperDigit, 27, 27},
	{"Azure", "AccountKey=", base64Any, 80, 90}, {"Telegram", ":AA", base64URL, 33, 33},
}

func slashed(c byte) bool   { return alnum(c) || c == '/' }
func base64Any(c byte) bool { return alnum(c) || strings.IndexByte("+/=_-", c) >= 0 }
func hexAny(c byte) bool    { return digit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

// serviceKey returns the service whose key a text holds, and "" if there is none.
func serviceKey(text string) string {
	if len(text) < 20 {
		return ""
	}
	for i := range keyForms {
		f := &keyForms[i]
		for from := 0; ; {
			found := strings.Index(text[from:], f.prefix)
			if found < 0 {
				break
			}
			start := from + found
			from = start + len(f.prefix)
			end := run(text[:min(len(text), from+f.to+1)], from, f.class) // prefixes follow each other in texts that callers make up
			if n := end - from; n >= f.from && n <= f.to && f.stands(text, start) && mixed(text[from:end]) {
				return f.service
			}
		}
	}
	return ""
}

// stands reports whether a key may begin at a place of a text: no word reaches into it. Telegram's have digits in front.
func (f *keyForm) stands(text string, start int) bool {
	if f.prefix[0] == ':' {
		n := 0
		for digit(at(text, start-1-n)) {
			n++
		}
		return n >= 8 && n <= 10
	}
	return !letter(f.prefix[0]) || !word(at(text, start-1))
}

// mixed reports whether a text has several characters, as placeholders such as xxxx have not.
func mixed(text string) bool {
	var seen [256]bool
	n := 0
	for i := range len(text) {
		if !seen[text[i]] {
			seen[text[i]] = true
			n++
		}
	}
	return n >= 6
}

// privateKeys start private keys, as files hold them.
var privateKeys = regexp.MustCompile(
	`-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-[23]:|AGE-SECRET-KEY-1[0-9A-Z]{58}`)

func hasPrivateKey(text string) bool { return privateKeys.MatchString(text) }

// urlPassword is the part of a URL with a user and a password (RFC 3986, section 3.2.1).
var urlPassword = regexp.MustCompile(`[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/?#:@"'<>]*:([^\s/?#@"'<>]+)@[A-Za-z0-9\[]`)

func hasURLPassword(text string) bool {
	if !strings.Contains(text, "://") {
		return false
	}
	for _, m := range urlPassword.FindAllStringSubmatch(text, 16) {
		if !placeholder(m[1]) {
			return true
		}
	}
	return false
}

// placeholder reports whether a text stands for a secret, such as ${PASSWORD}, %s, *** or [password].
func placeholder(text string) bool {
	return strings.ContainsAny(text, "${}%<>[]*") || strings.Trim(text, "xX.") == ""
}

// assignment gives a password its value, as connection strings and environments do.
var assignment = regexp.MustCompile(`(?i)(?:^|[\s;&?,"'])(?:[a-z]+_)*(?:password|passwd|pwd|secret|api_?key|access_?token|` +
	`client_?secret|auth_?token|session_?token|secret_?access_?key)=([^\s&;,"'<>()]{6,})`)

func hasAssignment(text string) bool {
	for _, m := range assignment.FindAllStringSubmatch(text, 16) {
		if !placeholder(m[1]) {
			return true
		}
	}
	return false
}

// headerCredential is the value of an Authorization header with Basic (RFC 7617) or Bearer (RFC 6750).
var headerCredential = regexp.MustCompile(`(?i)\b(basic|bearer) +([A-Za-z0-9+/._~-]{8,}=*)`)

func hasHeaderCredential(text string) bool {
	if !strings.Contains(text, "asic ") && !strings.Contains(text, "earer ") && !strings.Contains(text, "ASIC ") && !strings.Contains(text, "EARER ") {
		return false // before the expression, which is slow
	}
	for _, m := range headerCredential.FindAllStringSubmatch(text, 16) {
		if strings.EqualFold(m[1], "bearer") {
			if len(m[2]) >= 20 && strings.ContainsAny(m[2], digits) && mixed(m[2]) {
				return true
			}
			continue
		}
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(m[2], "="))
		if user, password, found := strings.Cut(string(raw), ":"); err == nil && found && printable(user+password) {
			return true
		}
	}
	return false
}

func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return text != ""
}

// hasEmail reports whether a text holds an e-mail address in the usual form: a name of letters, digits and ._%+-, and a
// domain with a top level of letters.
func hasEmail(text string) bool {
	local := func(c byte) bool { return alnum(c) || strings.IndexByte("._%+-", c) >= 0 || c >= 0x80 }
	for i := 0; ; i++ {
		next := strings.IndexByte(text[i:], '@')
		if next < 0 {
			return false
		}
		i += next
		from := i
		for local(at(text, from-1)) && i-from < 65 {
			from--
		}
		to := run(text, i+1, func(c byte) bool { return alnum(c) || c == '-' || c == '.' || c >= 0x80 })
		name, domain := text[from:i], strings.TrimRight(text[i+1:to], ".-")
		if strings.Trim(name, "._%+-") == "" || len(name) > 64 || !domainName(domain) {
			continue
		}
		// user@host of URLs, of SSH and of modules with a version.
		if before, after := at(text, from-1), at(text, to); before == '/' || before == ':' && from >= 3 && text[from-2] == '/' ||
			after == ':' && !strings.ContainsAny(string(at(text, to+1)), " \n\r\t\x00") || after == '/' || name == "git" {
			continue
		}
		return true
	}
}

// domainName reports whether a text is a name of at least two labels, of which the last one has letters alone.
func domainName(text string) bool {
	labels := strings.Split(text, ".")
	if len(labels) < 2 || len(text) > 253 {
		return false
	}
	for _, label := range labels {
		if label == "" || label[0] == '-' || len(label) > 63 {
			return false
		}
	}
	top := labels[len(labels)-1]
	return len(top) >= 2 && len(top) <= 24 && run(top, 0, letter) == len(top)
}
