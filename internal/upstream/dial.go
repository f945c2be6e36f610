package upstream

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Dial connects to the upstream of a namespace as the proxy does, with its TLS and API key, for typed messages: what the
// server holds is seen as it holds it. The caller closes the connection.
func Dial(configs []Config, namespace string) (*grpc.ClientConn, error) {
	u := NewRouter(configs, Options{})
	defer u.Close()
	conns, err := u.Route(namespace)
	if err != nil {
		return nil, err
	}
	creds := conns.config.TLS
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage))}
	if conns.config.APIKey != nil {
		options = append(options, grpc.WithPerRPCCredentials(conns.config.APIKey))
	}
	return grpc.NewClient(conns.address, options...)
}
