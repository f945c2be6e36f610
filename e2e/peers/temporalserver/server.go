package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/log/tag"
	"go.temporal.io/server/common/membership/static"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	clusterName = "active"
	storeName   = "sqlite"
	// clusterID is recorded in the database at its first start, and a later start on that file must name the same one.
	clusterID = "temporal-seal-test"
)

// server is a running Temporal server, and the Web UI if asked for.
type server struct {
	temporal temporal.Server // nil if only the Web UI was asked for
	ui       *uiserver.Server
	address  string // of the frontend
	uiURL    string
}

// stop ends both, the Web UI first because it dials the frontend.
func (s *server) stop() {
	if s.ui != nil {
		s.ui.Stop()
	}
	if s.temporal != nil {
		s.temporal.Stop()
	}
}

// ports of the four services, the frontend's HTTP API and the Web UI.
type ports struct{ frontend, http, history, matching, worker, ui int }

// freePorts finds a port for each that is 0. All are held until the last one is found, so that no two are the same.
func freePorts(frontend, ui int) (ports, error) {
	p := ports{frontend: frontend, ui: ui}
	for _, port := range []*int{&p.frontend, &p.http, &p.history, &p.matching, &p.worker, &p.ui} {
		if *port != 0 {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return ports{}, fmt.Errorf("no free port on %s: %w", host, err)
		}
		defer l.Close()
		*port = l.Addr().(*net.TCPAddr).Port
	}
	return p, nil
}

func startServer(opts options) (*server, error) {
	p, err := freePorts(opts.port, opts.uiPort)
	if err != nil {
		return nil, err
	}
	sql, err := database(opts)
	if err != nil {
		return nil, err
	}
	conf := serverConfig(p, sql)
	logger, err := newLogger(opts.logLevel)
	if err != nil {
		return nil, err
	}
	authorizer, err := authorization.GetAuthorizerFromConfig(&conf.Global.Authorization)
	if err != nil {
		return nil, err
	}
	claims, err := authorization.GetClaimMapperFromConfig(&conf.Global.Authorization, logger)
	if err != nil {
		return nil, err
	}
	dynamic := dynamicconfig.StaticClient{}
	for key, value := range opts.dynamicConfig {
		dynamic[dynamicconfig.MakeKey(key)] = value
	}
	srv, err := temporal.NewServer(
		temporal.WithConfig(conf),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(map[primitives.ServiceName]static.Hosts{
			primitives.FrontendService: static.SingleLocalHost(address(p.frontend)),
			primitives.HistoryService:  static.SingleLocalHost(address(p.history)),
			primitives.MatchingService: static.SingleLocalHost(address(p.matching)),
			primitives.WorkerService:   static.SingleLocalHost(address(p.worker)),
		}),
		temporal.WithLogger(logger),
		temporal.WithAuthorizer(authorizer),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return claims }),
		temporal.WithDynamicConfigClient(dynamic),
	)
	if err != nil {
		return nil, fmt.Errorf("wire the server: %w", err)
	}
	if err := srv.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	s := &server{temporal: srv, address: address(p.frontend)}
	if opts.ui {
		s.startUI(p, opts, logger)
	}
	return s, nil
}

// newLogger writes to standard error, without the stack traces that the server's own set-up adds to each error: at shutdown every held
// poll ends in one.
func newLogger(level string) (log.Logger, error) {
	parsed, err := zap.ParseAtomicLevel(level)
	if err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	conf := zap.NewProductionConfig()
	conf.Level = parsed
	conf.Encoding = "console"
	conf.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	conf.DisableStacktrace = true
	conf.DisableCaller = true
	zl, err := conf.Build()
	if err != nil {
		return nil, err
	}
	return log.NewZapLogger(zl), nil
}

// startUIAlone serves the Web UI for a frontend elsewhere: the proxy, say, so that its pages show what was sealed.
func startUIAlone(opts options) (*server, error) {
	logger, err := newLogger(opts.logLevel)
	if err != nil {
		return nil, err
	}
	p, err := freePorts(0, opts.uiPort)
	if err != nil {
		return nil, err
	}
	s := &server{address: opts.uiFor}
	s.startUI(p, opts, logger)
	return s, nil
}

// startUI serves the Web UI in the background. Its Start blocks, and an error there must not take down the server that tests talk to.
func (s *server) startUI(p ports, opts options, logger log.Logger) {
	s.uiURL = "http://" + address(p.ui)
	s.ui = uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		Host:                host,
		Port:                p.ui,
		TemporalGRPCAddress: s.address,
		EnableUI:            true,
		Codec:               uiconfig.Codec{Endpoint: opts.codec, PassAccessToken: strings.HasPrefix(opts.codec, "https://")},
		Auth:                uiAuth(opts.oidc, s.uiURL),
		CORS:                uiconfig.CORS{CookieInsecure: true},
		HideLogs:            true,
		DisableNewsFetch:    true,
	}))
	go func() {
		if err := s.ui.Start(); err != nil {
			logger.Error("the Web UI ended", tag.NewStringTag("address", s.uiURL), tag.Error(err))
		}
	}()
}

// uiAuth has users log in before they see anything; without an issuer nobody has to.
func uiAuth(issuer, ui string) uiconfig.Auth {
	if issuer == "" {
		return uiconfig.Auth{}
	}
	return uiconfig.Auth{Enabled: true, RedirectToProvider: true, Providers: []uiconfig.AuthProvider{{
		Label: "test", Type: "oidc", ProviderURL: issuer, ClientID: "temporal-ui", ClientSecret: "unused",
		Scopes: []string{"openid", "profile", "email"}, CallbackURL: ui + "/auth/sso/callback",
	}}}
}

func address(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// database prepares the SQLite file (or memory), its schema and namespaces. All of it happens before the server starts, since the
// server reads namespaces into a cache that is refreshed every few seconds only.
func database(opts options) (*config.SQL, error) {
	conf := &config.SQL{PluginName: sqliteplugin.PluginName}
	if opts.dbFile == "" {
		conf.DatabaseName = fmt.Sprintf("memory-%d", os.Getpid())
		conf.ConnectAttributes = map[string]string{"mode": "memory", "cache": "shared"}
	} else {
		conf.DatabaseName = opts.dbFile
		conf.ConnectAttributes = map[string]string{"mode": "rwc"}
		if _, err := os.Stat(opts.dbFile); errors.Is(err, fs.ErrNotExist) {
			if err := sqlite.SetupSchema(conf); err != nil {
				return nil, fmt.Errorf("set up the schema in %s: %w", opts.dbFile, err)
			}
		}
	}
	namespaces := make([]*sqlite.NamespaceConfig, len(opts.namespaces))
	for i, name := range opts.namespaces {
		ns, err := sqlite.NewNamespaceConfig(clusterName, name, false, opts.searchAttributes)
		if err != nil {
			return nil, fmt.Errorf("namespace %s: %w", name, err)
		}
		namespaces[i] = ns
	}
	if err := sqlite.CreateNamespaces(conf, namespaces...); err != nil {
		return nil, fmt.Errorf("create the namespaces: %w", err)
	}
	return conf, nil
}

// serverConfig is a cluster of one, every service on loopback.
func serverConfig(p ports, sql *config.SQL) *config.Config {
	conf := &config.Config{
		Persistence: config.Persistence{
			DefaultStore:     storeName,
			VisibilityStore:  storeName,
			NumHistoryShards: 1,
			DataStores:       map[string]config.DataStore{storeName: {SQL: sql}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{clusterName: {
				Enabled:                true,
				InitialFailoverVersion: 1,
				RPCAddress:             address(p.frontend),
				HTTPAddress:            address(p.http),
				ClusterID:              clusterID,
			}},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		PublicClient:        config.PublicClient{HostPort: address(p.frontend)},
		Services: map[string]config.Service{
			"frontend": {RPC: config.RPC{GRPCPort: p.frontend, HTTPPort: p.http, BindOnIP: host}},
			"history":  {RPC: config.RPC{GRPCPort: p.history, BindOnIP: host}},
			"matching": {RPC: config.RPC{GRPCPort: p.matching, BindOnIP: host}},
			"worker":   {RPC: config.RPC{GRPCPort: p.worker, BindOnIP: host}},
		},
	}
	conf.Global.Membership.MaxJoinDuration = 30 * time.Second
	conf.Global.Membership.BroadcastAddress = host
	conf.Archival.History.State = "disabled"
	conf.Archival.Visibility.State = "disabled"
	conf.NamespaceDefaults.Archival.History.State = "disabled"
	conf.NamespaceDefaults.Archival.Visibility.State = "disabled"
	return conf
}
