package server

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Dial connects to the upstream of a namespace as the proxy does, with its TLS and API key, for typed messages: what the
// server holds is seen as it holds it. The caller closes the connection.
func Dial(configs []UpstreamConfig, namespace string) (*grpc.ClientConn, error) {
	u := newUpstreams(configs, nil)
	defer u.close()
	r, err := u.route(namespace)
	if err != nil {
		return nil, err
	}
	creds := r.config.TLS
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage))}
	if r.config.APIKey != nil {
		options = append(options, grpc.WithPerRPCCredentials(r.config.APIKey))
	}
	return grpc.NewClient(r.conns.address, options...)
}
