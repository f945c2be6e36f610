// Package detect finds secrets and personal data in texts and behind the names of members. It is deterministic, asks
// nobody, and returns what it found and how sure that is, never the text.
//
// There are detectors for what has a grammar: tokens, keys of services, private keys, numbers with check digits. Names of
// persons and free text have none, so nothing here finds them unless a member's name says what its value is.
//
//   - secrets.go: tokens, keys, passwords in texts; entropy.go: texts that look random
//   - numbers.go: cards, bank accounts, telephone numbers; national.go: numbers that states give to persons
//   - names.go: what the names of members say; rules.go: rules from a file
//   - detect.go: all of them together
package detect

import (
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Certainty is how sure a finding is.
type Certainty string

const (
	// Certain findings have a form that benign texts do not have: a grammar, or a prefix and a length, or check digits
	// and more.
	Certain Certainty = "certain"
	// Likely findings have a form that benign texts seldom have.
	Likely Certainty = "likely"
	// ByName findings follow from the name of a member alone.
	ByName Certainty = "by name"
	// Possible findings look random. Many of them are hashes and identifiers.
	Possible Certainty = "possible"
)

// Rank orders certainties: the surest has the largest.
func (c Certainty) Rank() int {
	switch c {
	case Certain:
		return 4
	case Likely:
		return 3
	case ByName:
		return 2
	case Possible:
		return 1
	}
	return 0
}

// Finding is one thing that a text holds.
type Finding struct {
	What      string    `json:"what"`
	Certainty Certainty `json:"certainty"`
}

// Detector has the built-in detectors, and the rules of a file. The zero value has the built-in ones alone.
type Detector struct {
	rules []rule
}

// maxText bounds what is searched of one text, in bytes.
const maxText = 1 << 20

// detectors are the built-in ones. needs are bytes of which a text has at least one, if the detector can find anything.
var detectors = []struct {
	finding Finding
	needs   string
	holds   func(text string) bool
}{
	{Finding{"JSON Web Token", Certain}, ".", policy.HasToken},
	{Finding{"private key", Certain}, "-", hasPrivateKey},
	{Finding{"password in a URL", Certain}, "@", hasURLPassword},
	{Finding{"password in an assignment", Likely}, "=", hasAssignment},
	{Finding{"credential of an HTTP header", Likely}, " ", hasHeaderCredential},
	{Finding{"e-mail address", Certain}, "@", hasEmail},
	{Finding{"telephone number", Likely}, digits, hasPhone},
	{Finding{"payment card", Certain}, digits, hasCard},
	{Finding{"IBAN", Certain}, digits, hasIBAN},
	{Finding{"HL7 message", Certain}, "|", hasHL7},
	{Finding{"random text", Possible}, digits, looksRandom},
}

const digits = "0123456789"

// Text returns what a text holds, each thing once.
func (d *Detector) Text(text string) []Finding {
	if len(text) > maxText {
		text = text[:maxText]
	}
	var found []Finding
	random := false
	for i := range detectors {
		b := &detectors[i]
		if !strings.ContainsAny(text, b.needs) || !b.holds(text) {
			continue
		}
		if b.finding.Certainty == Possible {
			random = true // counts if nothing says what it is
			continue
		}
		found = append(found, b.finding)
	}
	if service := serviceKey(text); service != "" {
		found = append(found, Finding{"key of " + service, Certain})
	}
	found = appendNational(found, text)
	for i := range d.rules {
		if r := &d.rules[i]; r.pattern != nil && r.pattern.MatchString(text) {
			found = append(found, r.finding)
		}
	}
	if random && len(found) == 0 {
		found = append(found, Finding{"random text", Possible})
	}
	return found
}

// hasHL7 reports whether a text starts as a message of HL7 version 2: a header segment with the usual delimiters, perhaps
// in the frame of its transport.
func hasHL7(text string) bool {
	text = strings.TrimLeft(text, "\x0b\r\n\t ")
	rest, found := strings.CutPrefix(text, "MSH|")
	return found && (strings.HasPrefix(rest, `^~\&|`) || strings.HasPrefix(rest, `^~\&#|`))
}

// fhirResources are those resource types of FHIR that are about a person.
var fhirResources = map[string]bool{
	"Account": true, "AdverseEvent": true, "AllergyIntolerance": true, "Appointment": true, "Bundle": true, "CarePlan": true,
	"CareTeam": true, "Claim": true, "ClinicalImpression": true, "Communication": true, "Composition": true,
	"Condition": true, "Consent": true, "Coverage": true, "DetectedIssue": true, "DiagnosticReport": true,
	"DocumentReference": true, "Encounter": true, "EpisodeOfCare": true, "ExplanationOfBenefit": true,
	"FamilyMemberHistory": true, "Goal": true, "ImagingStudy": true, "Immunization": true, "Invoice": true,
	"MedicationAdministration": true, "MedicationDispense": true, "MedicationRequest": true,
	"MedicationStatement": true, "NutritionOrder": true, "Observation": true, "Patient": true, "Person": true,
	"Practitioner": true, "Procedure": true, "QuestionnaireResponse": true, "RelatedPerson": true, "RiskAssessment": true,
	"ServiceRequest": true, "Specimen": true, "VisionPrescription": true,
}

// FHIR returns what an object is whose member resourceType has a value: a health record, if it is a resource about a person.
func FHIR(resourceType string) (Finding, bool) {
	return Finding{"FHIR resource", Certain}, fhirResources[resourceType]
}

// letter, digit, word report the class of a byte in ASCII.
func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func upper(c byte) bool  { return c >= 'A' && c <= 'Z' }
func digit(c byte) bool  { return c >= '0' && c <= '9' }
func word(c byte) bool   { return letter(c) || digit(c) || c == '_' || c >= 0x80 }

// at returns the byte at a place of a text, and 0 outside of it.
func at(text string, i int) byte {
	if i < 0 || i >= len(text) {
		return 0
	}
	return text[i]
}

// run returns the end of the longest piece of a text from i on whose bytes are in a class.
func run(text string, i int, class func(byte) bool) int {
	for i < len(text) && class(text[i]) {
		i++
	}
	return i
}
