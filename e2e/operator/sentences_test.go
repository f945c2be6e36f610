package operator

// sentence is one claim about what operators can rely on.
type sentence struct {
	// id is the point and the number of the claim in it.
	id, text string
}

// sentences are all claims of this suite. A scenario names the one that it shows by its id.
var sentences = []sentence{
	{"1.1", "in shadow mode sealed payloads are opened for workers and clients"},
	{"1.2", "in shadow mode nothing new is sealed, and running workflows go on"},
	{"1.3", "in shadow mode no metric counts a clear payload as sealed"},
	{"1.4", "a candidate policy is evaluated beside the policy in force and changes no payload"},
	{"1.5", "differences between the candidate and the policy in force are counted"},
	{"1.6", "differences between the candidate and the policy in force are listed with the rules' places"},
	{"1.7", "a gauge, /readyz and labels of metrics show that shadow mode is on"},

	{"2.1", "after an alias has moved, a restarted proxy opens what others sealed once the earlier ARN is under open_only"},
	{"2.2", "keys are shown by their ARNs: /keys, /readyz, metrics, keys list, keys scan"},
	{"2.3", "a moved alias is detected and counted"},
	{"2.4", "the log says what to do about a moved alias"},
	{"2.5", "check shows to which ARN an alias leads"},
	{"2.6", "a scan never says that a key may be retired while envelopes name keys that the config does not know"},
	{"2.7", "keys reference prints the reference of a URI or an ARN"},
	{"2.8", "examples name ARNs where aliases are dangerous"},
	{"2.9", "keys of wildcard entries are recognized as configured"},

	{"3.1", "a key that does not answer at start disables only what needs it"},
	{"3.2", "a dead upstream of several disables only its namespaces"},
	{"3.3", "an unreachable JWKS disables only its listener's callers"},
	{"3.4", "polls of what is disabled are held, and its calls are Unavailable"},
	{"3.5", "/readyz lists what is disabled"},
	{"3.6", "what was disabled serves by itself once it answers"},
	{"3.7", "the log says what a start waits for"},

	{"4.1", "check reports a namespace without a default key"},
	{"4.2", "check reports a key of a wildcard entry that does not exist"},
	{"4.3", "check reports certificates that have expired or do not match their keys"},
	{"4.4", "check --connect reports a JWKS that is dead or is no JWKS, and an upstream that does not answer"},
	{"4.5", "check reports a namespace that has no upstream"},
	{"4.6", "check reports a policy file for a namespace that nothing serves"},
	{"4.7", "check reports an entry that an earlier pattern hides"},
	{"4.8", "check reports folders and files in the namespaces' folder that are ignored"},
	{"4.9", "check reports an empty config file"},
	{"4.10", "check reports a platform policy that opens nothing for anyone"},
	{"4.11", "a kind, method, kind of caller, direction or action that does not exist is an error with its line, and the nearest name is suggested"},
	{"4.12", "loading refuses the same names as check"},
	{"4.13", "check reports all errors of config, keys and policy in one run"},
	{"4.14", "check blames only the key at fault, with a timeout for each key"},
	{"4.15", "check --offline asks no key and no server"},
	{"4.16", "check --namespaces checks a folder of namespace policies"},
	{"4.17", "check --strict turns warnings into errors"},
	{"4.18", "check reports a rule without conditions that names a key that is not configured"},
	{"4.19", "check refuses services that carry payloads which the proxy would forward unread, or that do not exist by that name"},
	{"4.20", "explain exits with 1 when the evaluation ends in an error"},
	{"4.21", "check --connect reports a key that makes no data key"},

	{"5.1", "check and the documents say which key is the default"},
	{"5.2", "{namespace} in the URI of a key names a key for each namespace, for every key service"},
	{"5.3", "a namespace without a default key is reported at start"},

	{"6.1", "a TLS handshake that fails leaves a rate-limited log line with its cause"},
	{"6.2", "TLS handshakes that fail are counted by cause"},
	{"6.3", "the expiry of certificates of listeners and upstreams is a gauge"},
	{"6.4", "an alert fires before a certificate expires"},
	{"6.5", "private keys that everybody can read are refused"},

	{"7.1", "values that do not open in lists and describes are counted by reason"},
	{"7.2", "values that do not open in results of queries and updates are counted by reason"},
	{"7.3", "values that do not open in histories are counted by reason"},
	{"7.4", "values that do not open in the codec server are counted by reason"},
	{"7.5", "values that do not open are logged by reason, rate-limited"},
	{"7.6", "the paging alert for tampering counts each of them"},

	{"8.1", "each log message that a document quotes exists"},
	{"8.2", "temporal_seal_build_info names version and commit"},
	{"8.3", "temporal_seal_config_stale shows that the config file is not in force"},
	{"8.4", "temporal_seal_policy_stale shows each namespace whose policy is not in force"},
	{"8.5", "temporal_seal_restart_pending shows that a change needs a restart"},
	{"8.6", "temporal_seal_key_revoked shows a key that is disabled or denied"},
	{"8.7", "temporal_seal_polls_held shows how many polls are held"},
	{"8.8", "counters with closed labels have their series from the start"},
	{"8.9", "alerts hold while their state lasts, for each installation apart"},
	{"8.10", "the dashboard has panels for keys, limits, stale sources and spans"},

	{"9.1", "log messages are fixed texts with fields"},
	{"9.2", "repeated lines are rate-limited by message and caller"},
	{"9.3", "a change that needs a restart is named"},

	{"10.1", "a proxy that drains accepts calls until its last caller has left"},
	{"10.2", "a proxy that drains ends with drain.time"},
	{"10.3", "no workflow fails while one replica of two drains"},
	{"10.4", "/readyz turns when the drain begins"},

	{"11.1", "a grant alone opens what the other namespace sealed, under the shipped policy"},
	{"11.2", "without a grant, the failure of a task names the other namespace and the grant"},
	{"11.3", "without a grant, the log names the other namespace and the grant"},
	{"11.4", "without a grant, the audit record names the other namespace"},
	{"11.5", "a Nexus call between two namespaces works with a grant, and its failure says what is missing without"},
	{"11.6", "without a config file, on loopback, all namespaces are one trust domain"},

	{"12.1", "a JWKS with a key of an unknown type serves with its other keys"},
	{"12.2", "tokens with crit are accepted or refused as RFC 7515 says"},
	{"12.3", "open reads several documents, or fails"},
	{"12.4", "open prints a history that an SDK replays"},
	{"12.5", "an empty X-Namespace at the codec server means default"},
	{"12.6", "a key file that a group can read is accepted, one that everybody can read is refused"},
	{"12.7", "awskms:///ARN is the same key as awskms://ARN"},
	{"12.8", "GetSystemInfo goes to the upstream that its namespace header names, else to the first"},
}
