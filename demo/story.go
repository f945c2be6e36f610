package main

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// secret is one thing that must not be readable in the server.
type secret struct{ what, text string }

// newStory makes the data of one run. Numbers and tokens are random, so that nothing of an earlier run can be found instead.
func newStory() (clinic.Story, []secret, error) {
	user := "dr.okafor@clinic.example"
	now := time.Now()
	story := clinic.Story{
		WorkflowID: "admission-" + random(3),
		PatientID:  "P-" + random(4),
		Ward:       "4B",
		JWTKey:     random(32),
		Insurer:    "HX-" + random(6),
		Lab: clinic.LabRecord{
			Patient:   "Maren Holtby-" + random(3),
			BirthDate: "1957-03-14",
			Record:    "MRN-" + random(6),
			Diagnosis: "suspected lymphoma, stage II " + random(3),
			Values:    map[string]float64{"hemoglobin": 9.8, "leukocytes": 14.2},
		},
	}
	var err error
	story.Token, err = clinic.Sign(map[string]any{"sub": user, "aud": "hospital", "exp": now.Add(time.Hour).Unix(), "jti": random(12)}, story.JWTKey)
	secrets := []secret{
		{"the user's token", story.Token},
		{"the user's name, within the token", user},
		{"the patient's name", story.Lab.Patient},
		{"the birth date", `"birth_date":"` + story.Lab.BirthDate},
		{"the record number", story.Lab.Record},
		{"the diagnosis", story.Lab.Diagnosis},
		{"the lab values", `"hemoglobin":9.8`},
		{"the insurance policy, in the error", story.Insurer},
	}
	return story, secrets, err
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand aborts the program instead
	return hex.EncodeToString(b)
}

// sweepFor knows secrets in every form in which they could lie in a database: as they are, in base64, in hex, compressed.
func sweepFor(secrets ...secret) *harness.Sweep {
	canaries := harness.NewCanaries()
	for _, s := range secrets {
		canaries.Add(s.what, s.text)
	}
	return harness.NewSweep(canaries)
}
