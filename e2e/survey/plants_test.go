package survey

import (
	"encoding/base64"
	"fmt"
)

// plant is a place in which the workload puts something sensitive into a few payloads.
type plant struct {
	workflow, activity, kind, name, pointer string
	what                                    string
	value                                   string         // that must be nowhere but in the server
	members                                 map[string]any // that it adds to the document; nil: the payload is the value
}

// kinds of payload that the workload makes.
const (
	input     = "input"
	memo      = "memo"
	header    = "header"
	signal    = "signal"
	result    = "result"
	failure   = "failure"
	worked    = "Fetcher" // the type whose workflows run an activity
	fetch     = "Fetch"   // that activity
	memoName  = "note"
	headerKey = "x-note"
)

// workflowTypes are those of the workload.
var workflowTypes = []string{worked, "Admission", "Billing", "Checkout", "Delivery", "Export", "Forecast", "Import", "Nightly", "Onboarding", "Payout", "Refund"}

// plants makes the twenty ways in which something sensitive travels. random gives letters and digits that nothing else has.
func plants(random func() string) []plant {
	jwt := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + random() + "." + random()
	member := func(name string, value any) map[string]any { return map[string]any{name: value} }
	mail := func() string { return random() + "@clinic.example" }
	of := func(workflow, pointer, what, value string, members map[string]any) plant {
		return plant{workflow: workflow, kind: input, pointer: pointer, what: what, value: value, members: members}
	}
	login, aws, github, pem, dsn, address := "hunter"+random(), "AKIAQ8ZR2LWX5NVB7TGK", "ghp_"+random()+"Zx3q", random(), random(), mail()
	name, birth, diagnosis, hl7, fhir, nested, asName, inMemo, inSignal, inHeader, inFailure := random(), "1971-"+random(), "E11 "+random(), random(), random(), random(),
		mail(), mail(), mail(), mail(), mail()
	return []plant{
		of("Admission", "/session", "JSON Web Token", jwt, member("session", jwt)),
		of("Admission", "/diagnosis", "health", diagnosis, member("diagnosis", map[string]any{"code": diagnosis})),
		of("Admission", "/birthDate", "date of birth", birth, member("birthDate", birth)),
		of("Billing", "/account/to", "IBAN", "DE89370400440532013000", member("account", map[string]any{"to": "DE89370400440532013000"})),
		of("Billing", "/paidWith", "payment card", "4111 1111 1111 1111", member("paidWith", "4111 1111 1111 1111")),
		of("Checkout", "/login/password", "password", login, member("login", map[string]any{"password": login})),
		of("Delivery", "/lines/*/to", "telephone number", "+4930901820", member("lines", []any{map[string]any{"to": "+4930901820"}, map[string]any{"to": "+4930901821"}})),
		of("Export", "/bucket/id", "key of AWS", aws, member("bucket", map[string]any{"id": aws})),
		of("Export", "/repository", "key of GitHub", github, member("repository", "clone with "+github)),
		of("Forecast", "/database", "password in a URL", dsn, member("database", "postgres://app:"+dsn+"@db/forecast")),
		of("Import", "/record", "FHIR resource", fhir, member("record", map[string]any{"resourceType": "Patient", "text": "seen by " + fhir})),
		of("Import", "/message", "HL7 message", hl7, member("message", "MSH|^~\\&|LAB|"+hl7+"|EHR")),
		of("Nightly", "/certificate", "private key", pem, member("certificate", "-----BEGIN PRIVATE KEY-----\n"+pem)),
		of("Onboarding", "/vorname", "name of a person", name, member("vorname", name)),
		of("Onboarding", "/form", "government identifier", nested, member("form", `{"ssn":"`+nested+`"}`)),
		of("Payout", "/byPayee/{key}", "e-mail address", asName, member("byPayee", map[string]any{asName: 1})),
		{workflow: "Refund", kind: memo, name: memoName, pointer: "/contact", what: "e-mail address", value: inMemo, members: member("contact", inMemo)},
		{workflow: "Refund", kind: signal, pointer: "/from", what: "e-mail address", value: inSignal, members: member("from", inSignal)},
		{workflow: "Refund", kind: header, name: headerKey, what: "e-mail address", value: inHeader},
		{workflow: worked, kind: failure, name: "message", what: "e-mail address", value: inFailure},
		{workflow: worked, activity: fetch, kind: input, pointer: "/token", what: "token", value: address, members: member("token", address)},
		{workflow: worked, activity: fetch, kind: result, pointer: "/tax", what: "Italian tax code", value: "RSSMRA80A01H501U", members: member("tax", "RSSMRA80A01H501U")},
	}
}

// place writes a place and a pointer as the test compares them.
func (p *plant) place() string {
	return fmt.Sprintf("%s/%s %s %s %s", p.workflow, p.activity, p.kind, p.name, p.pointer)
}
