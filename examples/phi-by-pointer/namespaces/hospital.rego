# In a lab record these members are PHI, wherever such a record is sent. In an appointment
# all is PHI but when and where: there the list says what stays readable.
package temporal.namespaces.hospital

request contains {"action": "pass"}

request contains {
	"action": "seal",
	"key": "phi",
	"fields": ["/patient", "/values/*/result"],
} if {
	input.activity.type in {"FetchLab", "StoreLab"}
}

# Not every record has these. A record without a patient or values is none that these rules know, and is sealed whole.
request contains {
	"action": "seal",
	"key": "phi",
	"fields": ["/birth_date", "/notes"],
	"missing": "pass",
} if {
	input.activity.type in {"FetchLab", "StoreLab"}
}

request contains {
	"action": "seal",
	"key": "phi",
	"clear": ["/ward", "/slot/start", "/slot/end"],
} if {
	input.activity.type == "BookAppointment"
}
