# Payroll is secret from end to end; of the other workflows only what their card
# activities get and give. The rest stays readable.
package temporal.namespaces.billing

secret_workflows := {"Payroll", "Bonus"}

card_activities := {"ChargeCard", "RefundCard"}

request contains {"action": "pass"}

request contains {"action": "seal"} if input.workflow.type in secret_workflows

request contains {"action": "seal", "key": "cards"} if input.activity.type in card_activities
