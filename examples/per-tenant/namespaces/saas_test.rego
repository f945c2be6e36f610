package temporal.namespaces.saas_test

import data.temporal.namespaces.saas

test_tenant if saas.request == {{"action": "seal", "key": "tenant/acme"}} with input.workflow.id as "acme/order-1"

test_no_tenant if saas.request == set() with input.workflow.id as "order-1"

test_empty_tenant if saas.request == set() with input.workflow.id as "/order-1"
