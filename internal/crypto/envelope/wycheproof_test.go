package envelope

import (
	"bytes"
	"crypto/fips140"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The vectors of Project Wycheproof (https://github.com/C2SP/wycheproof, Apache-2.0) are read from their Go module,
// which is fetched by version and hash. It is not in go.mod: 100 MB of vectors are nothing for those who build.
const (
	wycheproofModule = "github.com/c2sp/wycheproof@v0.0.0-20260902155932-3fa63dd0344a"
	wycheproofSum    = "h1:pNbL2nztRsWfW/ispAwsvcDFxs9Id38uIsR2/Up5G2c="
)

type wycheproofFile struct {
	TestGroups []struct {
		KeySize, IvSize, TagSize int
		Tests                    []wycheproofCase
	}
}

type wycheproofCase struct {
	TcId                                             int
	Comment, Result                                  string
	Key, Iv, Aad, Msg, Ct, Tag, Ikm, Salt, Info, Okm hexBytes
	Size                                             int
}

func wycheproof(t *testing.T, file string) (f wycheproofFile) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: the vectors are a download of 25 MB")
	}
	cmd := exec.Command("go", "mod", "download", "-json", wycheproofModule)
	cmd.Dir = t.TempDir() // outside of any module: no go.mod has a say, and none is changed
	cmd.Env = append(os.Environ(), "GODEBUG=", "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	var module struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(out, &module); err != nil || jsonErr != nil || module.Error != "" {
		t.Fatalf("fetch %s: %v %v %s", wycheproofModule, err, jsonErr, module.Error)
	}
	if module.Sum != wycheproofSum {
		t.Fatalf("%s has hash %s, want %s", wycheproofModule, module.Sum, wycheproofSum)
	}
	b, err := os.ReadFile(filepath.Join(module.Dir, "testvectors_v1", file))
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestWycheproofAESGCM(t *testing.T) {
	ran, others := 0, 0
	for _, g := range wycheproof(t, "aes_gcm_test.json").TestGroups {
		if g.KeySize != 256 || g.IvSize != 8*nonceSize || g.TagSize != 8*tagSize {
			others += len(g.Tests) // sizes that no envelope has
			continue
		}
		for _, c := range g.Tests {
			ran++
			a, err := newCipher(c.Key)
			if err != nil {
				t.Fatal(err)
			}
			sealed := append(append(bytes.Clone(c.Iv), c.Ct...), c.Tag...)
			got, err := a.open(nil, sealed, c.Aad)
			if valid := c.Result == "valid"; valid != (err == nil) || valid && !bytes.Equal(got, c.Msg) {
				t.Errorf("%d %s (%s): opened %x, error %v", c.TcId, c.Comment, c.Result, got, err)
			}
			if got := gcmOf(t, c.Key).Seal(bytes.Clone(c.Iv), c.Iv, c.Msg, c.Aad); (c.Result == "valid") != bytes.Equal(got, sealed) {
				t.Errorf("%d %s (%s): sealed %x, the vector has %x", c.TcId, c.Comment, c.Result, got, sealed)
			}
		}
	}
	if ran < 60 {
		t.Errorf("only %d cases", ran)
	}
	t.Logf("%d cases, and %d for sizes that no envelope has", ran, others)
}

func TestWycheproofHKDF(t *testing.T) {
	ran := 0
	for _, g := range wycheproof(t, "hkdf_sha256_test.json").TestGroups {
		for _, c := range g.Tests {
			if fips140.Enforced() && len(c.Ikm) < 112/8 {
				t.Logf("%d %s: refused in FIPS mode, its key has %d bits", c.TcId, c.Comment, 8*len(c.Ikm))
				continue
			}
			ran++
			key, err := hkdf.Extract(sha256.New, c.Ikm, c.Salt)
			if err != nil {
				t.Fatal(err)
			}
			got, err := hkdf.Expand(sha256.New, key, string(c.Info), c.Size)
			if valid := c.Result == "valid"; valid != (err == nil) || valid && !bytes.Equal(got, c.Okm) {
				t.Errorf("%d %s (%s): %x, error %v; want %x", c.TcId, c.Comment, c.Result, got, err, c.Okm)
			}
		}
	}
	t.Logf("%d cases", ran)
}

// TestWycheproofHMAC tests what HKDF-Expand is made of: its first block is HMAC(key, info || 1).
func TestWycheproofHMAC(t *testing.T) {
	ran := 0
	for _, g := range wycheproof(t, "hmac_sha256_test.json").TestGroups {
		for _, c := range g.Tests {
			if fips140.Enforced() && len(c.Key) < 112/8 {
				t.Logf("%d %s: refused in FIPS mode, its key has %d bits", c.TcId, c.Comment, 8*len(c.Key))
				continue
			}
			ran++
			mac := hmac.New(sha256.New, c.Key)
			mac.Write(c.Msg)
			if valid := c.Result == "valid"; valid != hmac.Equal(mac.Sum(nil)[:g.TagSize/8], c.Tag) {
				t.Errorf("%d %s (%s): %x, the vector has %x", c.TcId, c.Comment, c.Result, mac.Sum(nil), c.Tag)
			}
			mac.Reset()
			mac.Write(append(bytes.Clone(c.Msg), 1))
			if got, err := hkdf.Expand(sha256.New, c.Key, string(c.Msg), 32); err != nil || !hmac.Equal(mac.Sum(nil), got) {
				t.Errorf("%d %s: HKDF-Expand gives %x, error %v; want %x", c.TcId, c.Comment, got, err, mac.Sum(nil))
			}
		}
	}
	t.Logf("%d cases", ran)
}
