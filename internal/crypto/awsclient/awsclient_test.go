package awsclient

import (
	"crypto/x509"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// TestNewAuthoritiesNewConnections: a bundle of authorities may be another one at the next reload.
func TestNewAuthoritiesNewConnections(t *testing.T) {
	trusting := func(ca string) aws.HTTPClient {
		return shared(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.TLSClientConfig.RootCAs = x509.NewCertPool()
			t.TLSClientConfig.RootCAs.AddCert(&x509.Certificate{Raw: []byte(ca)})
		}))
	}
	before := trusting("one")
	if trusting("one") != before {
		t.Error("the same authorities, and other connections")
	}
	if trusting("two") == before {
		t.Error("other authorities, and the same connections")
	}
	if shared(awshttp.NewBuildableClient()) == before {
		t.Error("the system's authorities, and connections that trusted others")
	}
}
