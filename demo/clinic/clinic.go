// Package clinic is the application of the demo: a hospital's admission, with a worker and a client as any team might have written
// them years ago. It imports Temporal's SDK and nothing of this product, and contains no encryption. Its only
// setting is a HostPort.
package clinic

const (
	// Namespace and TaskQueue are where the application has always run.
	Namespace = "clinic-prod"
	TaskQueue = "admissions"
	// WardAttribute is the search attribute by which wards find their admissions.
	WardAttribute = "Ward"
)

// Admit is the input of the Admission workflow. The token is that of the user who admits: activities act on that user's behalf.
type Admit struct {
	PatientID string `json:"patient_id"`
	Ward      string `json:"ward"`
	Token     string `json:"token"`
}

// OnBehalf is what every activity that calls another system is given.
type OnBehalf struct {
	Token     string `json:"token"`
	PatientID string `json:"patient_id"`
}

// Coverage is the insurer's answer.
type Coverage struct {
	Covered bool   `json:"covered"`
	Plan    string `json:"plan"`
}

// LabRecord is protected health information.
type LabRecord struct {
	Patient   string             `json:"patient"`
	BirthDate string             `json:"birth_date"`
	Record    string             `json:"record_no"`
	Diagnosis string             `json:"diagnosis"`
	Values    map[string]float64 `json:"values"`
	OrderedBy string             `json:"ordered_by"`
}

// Bed is where the patient lies. Nothing about it is secret.
type Bed struct {
	Ward string `json:"ward"`
	Bed  int    `json:"bed"`
}

// Scan is the input of BookScan.
type Scan struct {
	Token string    `json:"token"`
	Lab   LabRecord `json:"lab"`
}

// Admitted is the workflow's result.
type Admitted struct {
	Bed     Bed  `json:"bed"`
	Covered bool `json:"covered"`
}

// Story is the data that one run of the demo uses, made anew each time. The client gets the token and the patient's id, the worker's hospital
// systems hold the rest.
type Story struct {
	WorkflowID string    `json:"workflow_id"`
	Token      string    `json:"token"`
	PatientID  string    `json:"patient_id"`
	Ward       string    `json:"ward"`
	Lab        LabRecord `json:"lab"`
	Insurer    string    `json:"insurer"` // policy number, in the text of the failure
	JWTKey     string    `json:"jwt_key"` // of the hospital's identity provider
}
