package peers

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"
	"time"
)

// TestStartJaeger sends one span over OTLP/HTTP and finds it by the query API.
func TestStartJaeger(t *testing.T) {
	j, err := StartJaeger(t.Context(), JaegerOptions{Log: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Stop() })
	span := `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"clinic"}}]},
		"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"admit","kind":2,
		"startTimeUnixNano":"1700000000000000000","endTimeUnixNano":"1700000000500000000"}]}]}]}`
	resp, err := http.Post(j.OTLPHTTP+"/v1/traces", "application/json", bytes.NewReader([]byte(span)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("OTLP answers %s", resp.Status)
	}
	if got := operations(t, j, "5b8efff798038103d269b633813fc60c"); len(got) != 1 || got[0] != "admit" {
		t.Errorf("operations %q", got)
	}
	if err := j.Stop(); err != nil {
		t.Fatal(err)
	}
	assertGone(t, j.Process)
}

// operations reads the names of a trace's spans, once Jaeger has it.
func operations(t *testing.T, j *Jaeger, traceID string) []string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		resp, err := http.Get(j.Query + "/api/traces/" + traceID)
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			Data []struct {
				Spans []struct{ OperationName string }
			}
		}
		err = json.NewDecoder(resp.Body).Decode(&answer)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.Data) > 0 {
			var names []string
			for _, s := range answer.Data[0].Spans {
				names = append(names, s.OperationName)
			}
			return names
		}
	}
	t.Fatal("the trace did not appear")
	return nil
}
