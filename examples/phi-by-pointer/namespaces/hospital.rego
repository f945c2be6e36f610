# In a lab record these members are PHI, wherever such a record is sent. In an appointment
# all is PHI but when and where: there the list says what stays readable.
package temporal.namespaces.hospital

request contains {"action": "pass"}

request contains {
	"action": "seal",
	"key": "phi",
	"fields": ["/patient", "/birth_date", "/values/*/result", "/notes"],
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
