package policy

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestTokens holds isToken to testdata/tokens.json, and finds each token within longer texts.
func TestTokens(t *testing.T) {
	raw, err := os.ReadFile("testdata/tokens.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name    string `json:"name"`
		Text    string `json:"text"`
		IsToken bool   `json:"is_token"`
	}
	if err := json.Unmarshal(raw, &cases); err != nil || len(cases) < 20 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		if got := isToken(c.Text); got != c.IsToken {
			t.Errorf("%s: isToken is %v", c.Name, got)
		}
		if !c.IsToken {
			continue
		}
		for _, around := range []string{"%", "token=%", "https://a.example/x?token=%&y=1", "Authorization: Bearer %\r\n", `{"t":"%"}`, "user@host:%"} {
			if text := strings.ReplaceAll(around, "%", strings.TrimSpace(c.Text)); !HasToken(text) {
				t.Errorf("%s: not found in %s", c.Name, around)
			}
		}
	}
	for _, text := range []string{"", ".", "..", "a.b.c", "1.2.3", "eyJack.eyJill.hill", "www.example.com", "file.tar.gz", strings.Repeat("e.", 100_000)} {
		if HasToken(text) {
			t.Errorf("%.20q holds no token", text)
		}
	}
	long := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","x":"` + strings.Repeat("a", maxTokenHeader) + `"}`))
	if isToken(long + ".e30.") {
		t.Error("a header without a bound is decoded")
	}
}
