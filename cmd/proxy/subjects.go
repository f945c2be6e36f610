package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/temporal-seal/temporal-seal/internal/config"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

// subjectsCommand groups what concerns the keys of subjects.
func subjectsCommand() *cobra.Command {
	return group("subjects", "Erase a person by destroying that person's key, and look after such keys",
		`A rule of the policy can name the subject of a payload, such as a patient. What concerns a subject is sealed with a key of its own in
the key store. Erasing the subject destroys that key, and with it every copy of what it sealed: in histories, archives and backups of
the Temporal server. Subjects are read from a file or from standard input, never from the command line, which others can see.`,
		eraseCommand(), readmitCommand(), showSubjectCommand(), listSubjectsCommand(), verifySubjectsCommand(), reapplyCommand())
}

// subjectOptions choose a subject, and say why something is done with it.
type subjectOptions struct {
	flags                config.Flags
	timeout              time.Duration
	namespace, key, file string
	reason, by, query    string
	config               *config.Config
	text                 []byte // the subject
	output               outputFormat
}

// addConfig adds what says where the keys are.
func (o *subjectOptions) addConfig(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.flags.File, "config", "", "config file in YAML, with key_store")
	addTimeout(&o.timeout, cmd)
	_ = cmd.MarkFlagRequired("config") // fails for a flag that does not exist
}

// addFlags adds what chooses a subject.
func (o *subjectOptions) addFlags(cmd *cobra.Command) {
	o.addConfig(cmd)
	cmd.Flags().StringVar(&o.namespace, "namespace", "", "namespace that the subject is in")
	cmd.Flags().StringVar(&o.key, "key", "", "key name that the subject is under (default: all of the namespace)")
	cmd.Flags().StringVar(&o.file, "subject-file", "", "file with the subject, or - for standard input")
	for _, name := range []string{"namespace", "subject-file"} {
		_ = cmd.MarkFlagRequired(name) // fails for a flag that does not exist
	}
}

// addReason adds who does it, and why.
func (o *subjectOptions) addReason(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.reason, "reason", "", "why, such as the number of the request; it is kept, and may not contain the subject")
	cmd.Flags().StringVar(&o.by, "by", os.Getenv("USER"), "who asks for it; it is kept")
	_ = cmd.MarkFlagRequired("reason")
}

// maxSubjectFile is more than a subject has.
const maxSubjectFile = 4096

// subject reads the subject. A line feed at the end is not part of it.
func (o *subjectOptions) subject(cmd *cobra.Command) ([]byte, error) {
	from := cmd.InOrStdin()
	if o.file != "-" {
		f, err := os.Open(o.file)
		if err != nil {
			return nil, fmt.Errorf("--subject-file: %w", err)
		}
		defer f.Close()
		from = f
	}
	text, err := io.ReadAll(io.LimitReader(from, maxSubjectFile))
	if err != nil {
		return nil, fmt.Errorf("--subject-file cannot be read: %w", err)
	}
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if err := keyring.CheckSubject(text); err != nil {
		return nil, fmt.Errorf("--subject-file: %w", err)
	}
	return text, nil
}

// noSubject refuses arguments without repeating them: somebody may take one for the place of the subject.
func noSubject(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errors.New("there are no arguments; the subject comes from a file, --subject-file FILE, since other users of this machine can read command lines")
	}
	return nil
}

// open opens the keys of the config.
func (o *subjectOptions) open(cmd *cobra.Command) (*keyring.Keyring, error) {
	var err error
	if o.config, err = o.flags.Load(); err != nil {
		return nil, err
	}
	if why := o.config.KeyStore.NoSubjects(); why != "" {
		return nil, errors.New(why)
	}
	return openStoredKeys(cmd, &o.flags, o.timeout)
}

// find finds the subject. It is an error if there is none under any key name.
func (o *subjectOptions) find(cmd *cobra.Command, keys *keyring.Keyring, subject []byte) ([]keyring.Found, error) {
	o.text = subject
	found, err := keys.Subjects().Find(cmd.Context(), o.namespace, o.key, subject)
	if err != nil {
		return nil, o.explained(err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("the key store has no subjects in the namespace %q under %s; see `temporal-seal subjects list`",
			o.hidden(o.namespace), keyOrAny(o.hidden(o.key)))
	}
	return found, nil
}

func keyOrAny(key string) string {
	if key == "" {
		return "any key name"
	}
	return fmt.Sprintf("the key name %q", key)
}

// explained adds what to do where a proxy has the file of a SQLite store open.
func (o *subjectOptions) explained(err error) error {
	if o.config != nil && bytes.HasPrefix([]byte(o.config.KeyStore.URL), []byte("sqlite:")) && crypto.KindOf(err) == crypto.KindUnavailable {
		return fmt.Errorf("%w; a proxy that runs has the file to itself: stop it while this command runs", err)
	}
	return err
}

// shownSubject is what show prints in JSON.
type shownSubject struct {
	Keys []subjectKey `json:"keys"`
}

// subjectKey is what a subject has under a key name.
type subjectKey struct {
	Key string `json:"key"`
	Tag string `json:"tag"`
	// State is unused, in_use or erased.
	State       string       `json:"state"`
	ErasedAt    time.Time    `json:"erased_at,omitzero"`
	Generations []generation `json:"generations"`
}

// generation is a key of a subject.
type generation struct {
	Generation int       `json:"generation"`
	ID         string    `json:"id"`
	MadeAt     time.Time `json:"made_at"`
	ErasedAt   time.Time `json:"erased_at,omitzero"`
	// Destroyed is false for an erased key too, until erase is run again, where a step of the erasure failed.
	Destroyed bool `json:"destroyed"`
}

// showSubjectCommand shows the generations of one subject's key.
func showSubjectCommand() *cobra.Command {
	var o subjectOptions
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the keys of one subject",
		Long: `show lists the keys of a subject by key name and generation, with their ids as envelopes have them, and when they were erased. It does
not print the subject.`,
		Example: `  temporal-seal subjects show --config config.yaml --namespace clinic --subject-file -`,
		Args:    noSubject,
		RunE: func(cmd *cobra.Command, _ []string) error {
			subject, err := o.subject(cmd)
			if err != nil {
				return err
			}
			keys, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer keys.Close()
			found, err := o.find(cmd, keys, subject)
			if err != nil {
				return err
			}
			shown := shownSubject{Keys: []subjectKey{}}
			for _, f := range found {
				shown.Keys = append(shown.Keys, subjectKeyOf(f))
			}
			if o.output.json() {
				return writeJSON(cmd.OutOrStdout(), shown)
			}
			shown.print(cmd.OutOrStdout())
			return nil
		},
	}
	o.output.flag(cmd)
	o.addFlags(cmd)
	return cmd
}

// subjectKeyOf returns what a subject has under a key name.
func subjectKeyOf(f keyring.Found) subjectKey {
	k := subjectKey{Key: f.Erasure.Context.Key, Tag: fmt.Sprint(f.Erasure.Tag), State: "in_use", Generations: []generation{}}
	switch {
	case len(f.Rows) == 0:
		k.State = "unused"
	case f.Rows[0].Erased != 0:
		k.State, k.ErasedAt = "erased", f.Rows[0].ErasedAt
	}
	for _, r := range f.Rows {
		if r.ID != (crypto.KeyID{}) { // else it is only reserved
			k.Generations = append(k.Generations, generationOf(r))
		}
	}
	return k
}

func generationOf(r crypto.SubjectRow) generation {
	g := generation{Generation: r.Generation, ID: r.ID.String(), MadeAt: r.Created, Destroyed: r.Wrapped == nil}
	if r.Erased != 0 {
		g.ErasedAt = r.ErasedAt
	}
	return g
}

// print writes it for people.
func (s shownSubject) print(w io.Writer) {
	for _, k := range s.Keys {
		state := map[string]string{"unused": "nothing was sealed for it", "in_use": "in use", "erased": "erased on " + k.ErasedAt.Format(time.DateOnly)}[k.State]
		fmt.Fprintf(w, "key %s, tag %s: %s\n", k.Key, k.Tag, state)
		for _, g := range k.Generations {
			fmt.Fprintf(w, "  generation %d: %s, made %s%s\n", g.Generation, g.ID, g.MadeAt.Format(time.DateOnly), g.erased())
		}
	}
}

func (g generation) erased() string {
	if g.ErasedAt.IsZero() {
		return ""
	}
	erased := ", erased on " + g.ErasedAt.Format(time.DateOnly)
	if !g.Destroyed {
		erased += "; its key is not destroyed yet: run erase again"
	}
	return erased
}

// listedSubjects is what list prints in JSON.
type listedSubjects struct {
	Pairs []subjectCount `json:"pairs"`
}

// subjectCount counts the subjects of a namespace and a key name.
type subjectCount struct {
	Namespace string `json:"namespace"`
	Key       string `json:"key"`
	Subjects  int    `json:"subjects"`
	Keys      int    `json:"keys"`
	Erased    int    `json:"erased"`
}

// listSubjectsCommand counts subjects.
func listSubjectsCommand() *cobra.Command {
	var o subjectOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Count the subjects in the key store, by namespace and key name",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer keys.Close()
			counts, err := keys.Subjects().Counts(cmd.Context())
			if err != nil {
				return o.explained(err)
			}
			all := listedSubjects{Pairs: []subjectCount{}}
			for _, c := range counts {
				all.Pairs = append(all.Pairs, subjectCount{c.Context.Namespace, c.Context.Key, c.Subjects, c.Keys, c.Erased})
			}
			if o.output.json() {
				return writeJSON(cmd.OutOrStdout(), all)
			}
			for _, c := range all.Pairs {
				fmt.Fprintf(cmd.OutOrStdout(), "namespace %s, key %s: %s, %s, %d erased\n",
					c.Namespace, c.Key, count(c.Subjects, "subject"), count(c.Keys, "key"), c.Erased)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s of namespace and key name\n", count(len(counts), "pair"))
			return nil
		},
	}
	o.output.flag(cmd)
	o.addConfig(cmd)
	return cmd
}

// verifiedSubjects is what verify prints in JSON.
type verifiedSubjects struct {
	// Parents are the index and wrap keys.
	Parents  verifiedKeys `json:"index_and_wrap_keys"`
	Subjects verifiedKeys `json:"subject_keys"`
}

// verifiedKeys are keys that were unwrapped.
type verifiedKeys struct {
	Checked  int        `json:"checked"`
	Unusable []keyError `json:"unusable"`
}

// verifySubjectsCommand unwraps the keys of all subjects.
func verifySubjectsCommand() *cobra.Command {
	var o subjectOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Unwrap the key of every subject that was not erased",
		Long: `verify unwraps the key of every subject in the key store, which proves that what it sealed opens, and reports keys that are there though
their subject was erased. The exit code is 1 if it reports anything.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer keys.Close()
			badParents := keyErrors{cmd: cmd, output: o.output, list: []keyError{}}
			parents, err := keys.Rows().VerifyParents(cmd.Context(), badParents.row)
			if err != nil {
				return o.explained(err)
			}
			if !o.output.json() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s of index and wrap keys checked, %d unusable\n", count(parents, "row"), len(badParents.list))
			}
			bad := keyErrors{cmd: cmd, output: o.output, list: []keyError{}}
			n, err := keys.Subjects().Verify(cmd.Context(), func(r crypto.SubjectRow, err error) { bad.add(r.ID, err) })
			if err != nil {
				return o.explained(err)
			}
			verified := verifiedSubjects{verifiedKeys{parents, badParents.list}, verifiedKeys{n, bad.list}}
			err = o.output.printed(cmd, verified, "%s checked, %d unusable", count(n, "subject key"), len(bad.list))
			return cmp.Or(err, bad.code(), badParents.code())
		},
	}
	o.output.flag(cmd)
	o.addConfig(cmd)
	return cmd
}

// confirm asks a person, unless yes is set.
func confirm(ctx context.Context, cmd *cobra.Command, yes bool, word string) error {
	if yes {
		return nil
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "This cannot be undone. Type %q to go on: ", word)
	var typed string
	_, _ = fmt.Fscanln(cmd.InOrStdin(), &typed) // nothing typed is no consent
	if typed != word || ctx.Err() != nil {
		return errors.New("nothing was changed: it was not confirmed (a script gives --yes)")
	}
	return nil
}
