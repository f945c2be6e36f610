package detect

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// jwt is a JSON Web Token, and secret letters that no service ever gave out.
var (
	jwt     = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + ".eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl"
	hexes   = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
	letters = "q8Zr2LwX5nVb7TgK1mYc9HsD4fJp6AeUoQi3"
)

// TestText has, for each detector, texts that it finds and near misses that it does not.
func TestText(t *testing.T) {
	for what, c := range map[string]struct{ finds, misses []string }{
		"JSON Web Token": {
			[]string{jwt, "Bearer " + jwt, "https://x.org/?t=" + jwt + "&a=1"},
			[]string{"a.b.c", "eyJ.eyJ.eyJ", "www.example.com", base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT"}`)) + ".e30.x"},
		},
		"private key": {
			[]string{"-----BEGIN PRIVATE KEY-----\nMIIE", "x\n-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN OPENSSH PRIVATE KEY-----", "-----BEGIN PGP PRIVATE KEY BLOCK-----"},
			[]string{"-----BEGIN PUBLIC KEY-----", "-----BEGIN CERTIFICATE-----", "a private key begins with BEGIN"},
		},
		"password in a URL": {
			[]string{"postgres://app:hunter2@db:5432/x", "see amqps://u:p-w@host", "https://:pw@[::1]/", "redis://u:a%40b@h"},
			[]string{"https://example.com:8080/@scope/x", "https://user@host/", "postgres://app:${PASSWORD}@db/x", "http://a/b:c@d", "redis://u:xxxx@h"},
		},
		"password in an assignment": {
			[]string{"Server=db;User=sa;Password=hunter22;", "DB_PASSWORD=correct-horse", "host=x password=hunter22"},
			[]string{"password=", "password=$PASSWORD", "password = x", "passwordless=abcdefg", "Password=<your password>", "password=xxxxxxxx"},
		},
		"credential of an HTTP header": {
			[]string{"Basic " + base64.StdEncoding.EncodeToString([]byte("ann:hunter2")), "Bearer " + letters},
			[]string{"basic information", "Bearer of good news and more of them", "Basic c29tZXRoaW5n"},
		},
		"e-mail address": {
			[]string{"jane@example.org", "Jane <j.d+x@mail.example.co.uk>", "mailto:a@b.de", "write to jürgen@bücher.de."},
			[]string{"git@github.com:a/b.git", "https://user@host.example/x", "@scope/package", "go@v1.2.3", "a@b", "user@localhost", "x/y@v0.1.2"},
		},
		"telephone number": {
			[]string{"+49 30 901820", "+1 (212) 555-0123", "tel:+442079460958", "212-555-0123", "(212) 555-0123", "+358 40 1234567", "call +49 30 901820 after five"},
			[]string{"+0000", "1+4930901820", "v1.0.0+20240101123456", "112-555-0123", "2024-01-02", "+1 112 555 0123", "+123", "+49.5", "+1111111111", "+49 30 901820x"},
		},
		"payment card": {
			[]string{"4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "card: 378282246310005.", "3782 822463 10005", "paid with 6011111111111117"},
			[]string{"4111111111111112", "0.4111111111111111", "id4111111111111111", "1700000000000000", "0000000000000000", "4111 1111 11111111x", "9999999999999995", "9400 4111 1111 1111 1111 89", "4111 1111 1111 1111 2222"},
		},
		"IBAN": {
			[]string{"DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "to FR1420041010050500013M02606."},
			[]string{"DE89370400440532013001", "GB82 WEST 1234 5698 7654 33", "XX89370400440532013000", "DE8937040044053201300", "ADE89370400440532013000"},
		},
		"HL7 message":                            {[]string{"MSH|^~\\&|LAB|HOSP|EHR|HOSP|2024||ORU^R01|1|P|2.5\rPID|1", "\x0bMSH|^~\\&|"}, []string{"MSH|a|b", "see MSH|^~\\&|", "a|b|c"}},
		"random text":                            {[]string{letters, base64.StdEncoding.EncodeToString([]byte("\x9f\x13\xa8\x44\xe1\x7c\x02\xb6\x55\xd9\x30\x8e\xfa\x61\xc7\x2b\x98\x4d\x0a\xe3"))}, []string{"550e8400-e29b-41d4-a716-446655440000", "GetWorkflowExecutionHistoryResponse", "h1:" + letters, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "two words 1234567890 ABCDEFGH"}},
		"key of AWS":                             {[]string{"AKIAQ8ZR2LWX5NVB7TGK", "id=ASIAQ8ZR2LWX5NVB7TGK;"}, []string{"AKIAQ8ZR2LWX5NVB7TG", "AKIAAAAAAAAAAAAAAAAA", "XAKIAQ8ZR2LWX5NVB7TGK", "AKIAQ8ZR2LWX5NVB7TGKX"}},
		"key of GitHub":                          {[]string{"ghp_" + letters, "github_pat_" + letters + letters}, []string{"ghp_short", "ghp_" + strings.Repeat("x", 36), "aghp_" + letters}},
		"key of Slack":                           {[]string{"xoxb-123456789012-" + letters}, []string{"xoxb-"}},
		"key of Stripe":                          {[]string{"sk_live_" + letters}, []string{"sk_live_abc", "task_live_" + letters}},
		"key of Telegram":                        {[]string{"123456789:AA" + letters[:33]}, []string{"x:AA" + letters[:33], "12345678901:AA" + letters[:33]}},
		"key of Mailchimp":                       {[]string{"key=" + hexes + "-us12"}, []string{hexes + "0-us12", "a-us12", hexes + "-us123", hexes + "-eu1"}},
		"key of Terraform":                       {[]string{letters[:14] + ".atlasv1." + letters + letters[:30]}, []string{"x.atlasv1." + letters + letters[:30]}},
		"key of Airtable":                        {[]string{"pat" + letters[:14] + "." + hexes + hexes}, []string{"pat" + letters[:14]}},
		"key of OpenAI":                          {[]string{"sk-" + letters[:20] + "T3BlbkFJ" + letters[:20]}, []string{"task-" + letters + letters[:12], "sk-" + letters}},
		"US social security number":              {[]string{"078-05-1120"}, []string{"000-05-1120", "666-05-1120", "078-00-1120", "1078-05-1120", "078-05-11201", "900-05-1120"}},
		"British national insurance number":      {[]string{"AB123456C", "AB 12 34 56 C"}, []string{"BG123456C", "AB123456E", "DB123456C", "XAB123456C"}},
		"NHS number":                             {[]string{"943 476 5919"}, []string{"943 476 5918", "9434765919"}},
		"Spanish identity number":                {[]string{"12345678Z", "X1234567L", "12345678-Z"}, []string{"12345678A", "1234567Z", "A12345678Z"}},
		"Italian tax code":                       {[]string{"RSSMRA80A01H501U"}, []string{"RSSMRA80A01H501A", "RSSMRA80A00H501T"}},
		"French social security number":          {[]string{"255081416802538", "2 55 08 14 168 025 38"}, []string{"255081416802539", "355081416802538"}},
		"German tax number":                      {[]string{"86095742719", "86 095 742 719"}, []string{"86095742718", "12345678903"}},
		"Swiss social security number":           {[]string{"756.9217.0769.85", "7569217076985"}, []string{"756.9217.0769.84"}},
		"Belgian national number":                {[]string{"85.07.30-033.28", "85073003328"}, []string{"85.07.30-033.29", "85.13.30-033.28"}},
		"Swedish identity number":                {[]string{"811218-9876", "19811218-9876", "198112189876"}, []string{"811218-9875", "811318-9876", "8112189876", "208112189876"}},
		"Finnish identity code":                  {[]string{"131052-308T", "131052Y308T"}, []string{"131052-308A", "131352-308T"}},
		"Polish identity number":                 {[]string{"44051401359"}, []string{"44051401358", "44151401359x"}},
		"Brazilian tax number":                   {[]string{"529.982.247-25"}, []string{"529.982.247-26", "111.111.111-11"}},
		"Indian Aadhaar number":                  {[]string{"2341 2341 2346"}, []string{"2341 2341 2347", "1341 2341 2346", "2341 2341 2346 1111", "2341 2341 2346 12", "1111-2341-2341-2346"}},
		"bare Brazilian tax number":              {[]string{"52998224725"}, []string{"52998224726", "529.982.247-25", "11111111111"}},
		"Norwegian identity number":              {[]string{"15078510150", "150785 10150"}, []string{"15078510151", "15138510150"}},
		"Estonian or Lithuanian identity number": {[]string{"38001085718"}, []string{"38001085719", "38013085718"}},
		"Romanian identity number":               {[]string{"1850715401236"}, []string{"1850715401237", "1851315401236"}},
		"Turkish identity number":                {[]string{"10000000146"}, []string{"10000000147", "00000000146"}},
		"Korean registration number":             {[]string{"850715-1234568"}, []string{"850715-1234567", "8507151234568", "851315-1234568"}},
		"South African identity number":          {[]string{"8001015009087"}, []string{"8001015009088", "8013015009087"}},
		"Canadian social insurance number":       {[]string{"130-692-544"}, []string{"130-692-545", "130 692 544"}},
		"Chilean identity number":                {[]string{"12.345.678-5", "12345678-5"}, []string{"12.345.678-6", "12345678"}},
		"Mexican registration code":              {[]string{"HEGG560427MVZRRL04"}, []string{"HEGG560427MVZRRL05", "HEGG561327MVZRRL04"}},
		"Chinese identity number":                {[]string{"11010519491231002X"}, []string{"110105194912310021", "11010519491331002X"}},
	} {
		holds := func(text string) bool {
			return slices.ContainsFunc(new(Detector).Text(text), func(f Finding) bool { return f.What == what })
		}
		for _, text := range c.finds {
			if !holds(text) {
				t.Errorf("%s: not found in %q: %v", what, text, new(Detector).Text(text))
			}
		}
		for _, text := range c.misses {
			if holds(text) {
				t.Errorf("%s: found in %q", what, text)
			}
		}
	}
}

// TestName has names of members by what they say.
func TestName(t *testing.T) {
	for what, names := range map[string]string{
		"password":              "password userPassword DB_PASSWORD passwordHash Kennwort mot_de_passe contraseña hasło senha DB_PASS",
		"secret":                "client_secret apiKey API-Key stripeSecretKey accessToken secret SECRET_KEY_BASE apiKeys",
		"token":                 "token userToken",
		"government identifier": "ssn nationalId passport_number codiceFiscale PESEL personalausweisnummer carte_d_identite",
		"date of birth":         "dob dateOfBirth Geburtsdatum date_de_naissance dateNaissance data-nascita",
		"health":                "diagnosis Diagnose patient_id bloodType medicamentos traitement_médical leki",
		"e-mail address":        "email billingEmail E-Mail-Adresse",
		"telephone number":      "phoneNumber Telefonnummer phone2",
		"name of a person":      "firstName cardholderName Vorname",
		"bank account":          "iban accountNumber",
		"payment card":          "cardNumber cvv",
		"":                      "id next_page_token pageToken passwordPolicy emailTemplate count name tokenCount discovery company span expand notes tokens max_tokens mails passes",
	} {
		for name := range strings.FieldsSeq(names) {
			f, found := new(Detector).Name(name)
			if f.What != what || found != (what != "") {
				t.Errorf("%q: %v, want %q", name, f, what)
			}
		}
	}
	if _, found := new(Detector).Name(strings.Repeat("password", 20)); found {
		t.Error("a name of 160 bytes is no name of a member")
	}
	if f, found := FHIR("Patient"); !found || f.Certainty != Certain {
		t.Errorf("FHIR: %v", f)
	}
	if _, found := FHIR("Thing"); found {
		t.Error("FHIR: Thing is no resource")
	}
}

// TestKeyCost: a text of prefixes alone, whose characters may stand in a key, takes time in proportion to its length.
func TestKeyCost(t *testing.T) {
	i := slices.IndexFunc(keyForms, func(f keyForm) bool { return f.service == "SendGrid" })
	class, looks, text := keyForms[i].class, 0, strings.Repeat("SG.", 4000)
	defer func() { keyForms[i].class = class }()
	keyForms[i].class = func(c byte) bool {
		looks++
		return class(c)
	}
	if service := serviceKey(text); service != "" || looks == 0 || looks > 100*len(text) {
		t.Errorf("%q: %d looks at %d bytes", service, looks, len(text))
	}
}

// TestRules reads rules from a file, and finds by them.
func TestRules(t *testing.T) {
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "rules.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	d, err := ReadRules(write("rules:\n- {what: patient number, pattern: 'P-[0-9]{6}', certainty: certain}\n- {what: ward, names: [ward_name]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if found := d.Text("see P-123456"); !slices.Contains(found, Finding{"patient number", Certain}) {
		t.Errorf("the rule finds nothing: %v", found)
	}
	if f, _ := d.Name("wardName"); f != (Finding{"ward", ByName}) {
		t.Errorf("the rule finds no name: %v", f)
	}
	for text, want := range map[string]string{
		"rules: [{pattern: x}]":                             "`what` is required",
		"rules: [{what: x}]":                                "`pattern` or `names` is required",
		"rules: [{what: x, pattern: '('}]":                  "pattern: ",
		"rules: [{what: x, pattern: y, certainty: surely}]": "is not one of",
		"rulez: []": "unknown field",
	} {
		if _, err := ReadRules(write(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := ReadRules("none.yaml"); err == nil {
		t.Error("a missing file is no error")
	}
}

// FuzzText searches any text. What it finds are things that it is made to find, each once.
func FuzzText(f *testing.F) {
	for _, text := range []string{jwt, "4111 1111 1111 1111", "DE89370400440532013000", "postgres://a:b@c", "+49 30 901820", "RSSMRA80A01H501U", "(212) 555-0123", "jane@example.org",
		"Basic YW5uOmh1bnRlcjI=", "2 55 08 14 168 025 38", "756.9217.0769.85", "MSH|^~\\&|"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		seen := map[string]bool{}
		for _, found := range new(Detector).Text(text) {
			if found.Certainty.Rank() == 0 || found.What == "" || seen[found.What] {
				t.Errorf("%v", found)
			}
			seen[found.What] = true
		}
		_, _ = new(Detector).Name(text)
	})
}
