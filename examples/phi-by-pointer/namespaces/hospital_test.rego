package temporal.namespaces.hospital_test

import data.temporal.namespaces.hospital

test_lab_record if {
	some v in hospital.request with input.activity.type as "FetchLab"
	"/patient" in v.fields
}

test_appointment if {
	some v in hospital.request with input.activity.type as "BookAppointment"
	v.clear == ["/ward", "/slot/start", "/slot/end"]
}

test_other_activity if hospital.request == {{"action": "pass"}} with input.activity.type as "AssignBed"
