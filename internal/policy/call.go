package policy

// Memory counts what a call takes. It gives it back when the call ends.
type Memory interface {
	// Charge counts n bytes more, or returns why the call may not have them.
	Charge(n int64) error
}

// Call is what the decisions about the payloads of one message share. It is not safe for concurrent use.
type Call struct {
	Memory Memory // nil: no limit

	charged int64 // for the content that took most; only one is in memory at a time
}

// charge counts n bytes for the content that is being decoded.
func (c *Call) charge(n int64) error {
	if c == nil || c.Memory == nil || n <= c.charged {
		return nil
	}
	err := c.Memory.Charge(n - c.charged)
	if err == nil {
		c.charged = n
	}
	return err
}
