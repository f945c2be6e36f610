package temporal.namespaces.billing_test

import data.temporal.namespaces.billing

test_payroll if {"action": "seal"} in billing.request with input.workflow.type as "Payroll"

test_card if {"action": "seal", "key": "cards"} in billing.request with input.activity.type as "RefundCard"

test_other_types if billing.request == {{"action": "pass"}} with input as {
	"workflow": {"type": "Dunning"},
	"activity": {"type": "SendMail"},
}
