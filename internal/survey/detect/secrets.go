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
	{"1Password", "ops_eyJ", base64Any, 100, 2048}, {"Airtable", "pat", dotted, 79, 79}, {"Atlassian", "ATATT3xFfGF0", base64Any, 150, 255},
	{"Brevo", "xkeysib-", dashed, 81, 81}, {"Contentful", "CFPAT-", base64URL, 43, 43}, {"DigitalOcean", "doo_v1_", hexDigit, 64, 64},
	{"DigitalOcean", "dor_v1_", hexDigit, 64, 64}, {"Doppler", "dp.pt.", alnum, 40, 44}, {"Doppler", "dp.st.", dotted, 40, 80},
	{"Duffel", "duffel_live_", base64URL, 43, 43}, {"Duffel", "duffel_test_", base64URL, 43, 43}, {"Dynatrace", "dt0c01.", dotted, 89, 89},
	{"EasyPost", "EZAK", alnum, 54, 54}, {"EasyPost", "EZTK", alnum, 54, 54}, {"Figma", "figd_", base64URL, 40, 44}, {"Groq", "gsk_", alnum, 52, 52},
	{"LangSmith", "lsv2_pt_", base64URL, 43, 43}, {"LangSmith", "lsv2_sk_", base64URL, 43, 43}, {"Mailchimp", "-us", digit, 1, 2},
	{"OpenAI", "sk-", alnum, 48, 48}, {"Perplexity", "pplx-", alnum, 48, 48}, {"PlanetScale", "pscale_tkn_", dotted, 32, 64},
	{"PlanetScale", "pscale_pw_", dotted, 32, 64}, {"PlanetScale", "pscale_oauth_", dotted, 32, 64}, {"Pulumi", "pul-", hexDigit, 40, 40},
	{"Replicate", "r8_", alnum, 37, 40}, {"RubyGems", "rubygems_", hexDigit, 48, 48}, {"Sentry", "sntrys_eyJ", base64Any, 80, 2048},
	{"Sentry", "sntryu_", hexDigit, 64, 64}, {"Shippo", "shippo_live_", hexDigit, 40, 40}, {"Shippo", "shippo_test_", hexDigit, 40, 40},
	{"Shopify", "shpca_", hexAny, 32, 32}, {"Shopify", "shppa_", hexAny, 32, 32}, {"Square", "EAAA", base64URL, 60, 60},
	{"Supabase", "sbp_", hexDigit, 40, 40}, {"Terraform", ".atlasv1.", base64URL, 60, 70}, {"Typeform", "tfp_", base64URL, 44, 64},
}

// fronts are what belongs to some keys in front of their prefix: so many characters of a class, of which no more stand there.
var fronts = map[string]struct {
	class    func(byte) bool
	from, to int
}{":AA": {digit, 8, 10}, "-us": {hexDigit, 32, 32}, ".atlasv1.": {alnum, 14, 14}}

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
			if n := end - from; n < f.from || n > f.to {
				continue
			}
			if front, stands := f.stands(text, start); stands && mixed(text[start-front:start]+text[from:end]) {
				return f.service
			}
		}
	}
	return ""
}

// stands reports whether a key may begin at a place of a text: no word reaches into it. front is how many bytes in front of its
// prefix belong to it.
func (f *keyForm) stands(text string, start int) (front int, stands bool) {
	before, has := fronts[f.prefix]
	if !has {
		return 0, !letter(f.prefix[0]) || !word(at(text, start-1))
	}
	for front <= before.to && before.class(at(text, start-1-front)) {
		front++
	}
	return front, front >= before.from && front <= before.to && !word(at(text, start-1-front))
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

// percentEncoded is a byte as URLs write it (RFC 3986, section 2.1).
var percentEncoded = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// placeholder reports whether a text stands for a secret, such as ${PASSWORD}, %s, *** or [password].
func placeholder(text string) bool {
	text = percentEncoded.ReplaceAllLiteralString(text, "_")
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
