//go:build tools

// Package temporalcli pins the Temporal CLI that brings the older server of the tests.
package temporalcli

import _ "github.com/temporalio/cli/cmd/temporal"
