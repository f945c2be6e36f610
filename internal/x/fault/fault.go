// Package fault describes panics of the product's own code. A panic's value may quote a payload, so nothing
// of it is passed on but its type, or the text of the Go runtime.
package fault

import (
	"errors"
	"fmt"
	"runtime"
)

// Describe returns what may be logged of a value that recover has returned.
func Describe(value any) string {
	var fault runtime.Error
	if err, ok := value.(error); ok && errors.As(err, &fault) {
		return fault.Error()
	}
	return fmt.Sprintf("%T", value)
}
