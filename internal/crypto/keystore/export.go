package keystore

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// exportFormat is the number of the format of exports: a line of JSON at the start, one for each row, and one at the end.
const exportFormat = 1

// exported is a line of an export. The first one has the format, the last one the count, and the others a row.
type exported struct {
	Format    int    `json:"temporal_seal_key_store,omitempty"`
	ID        string `json:"id,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Key       string `json:"key,omitempty"`
	KEK       string `json:"kek,omitempty"`
	KEKURI    string `json:"kek_uri,omitempty"`
	Wrapped   []byte `json:"wrapped,omitempty"`
	Rows      *int   `json:"rows,omitempty"`
}

var errExpiring = errors.New("the key store holds keys that expire: a file with them would outlive their end, and one without them " +
	"is not complete; move the database with its own tools")

// Export writes all rows of a store, which Import reads. It leaves out rows of which nothing can be opened, and calls skipped for each.
func Export(ctx context.Context, store crypto.KeyStore, w io.Writer, skipped func(crypto.KeyRow)) (rows int, err error) {
	if subjects := crypto.SubjectsOf(store); subjects != nil {
		counts, err := subjects.SubjectCounts(ctx)
		if err != nil {
			return 0, err
		}
		lost, err := subjects.LostIndexKeys(ctx)
		if err != nil {
			return 0, err
		}
		if len(counts)+len(lost) > 0 {
			return 0, errors.New("the key store holds keys of subjects: a file with them would outlive their erasure, and one without them " +
				"is not complete; move the database with its own tools")
		}
	}
	if expiry := crypto.ExpiryOf(store); expiry != nil {
		lives, err := expiry.Lives(ctx, true)
		if err != nil {
			return 0, err
		}
		if slices.ContainsFunc(lives, func(l crypto.KeyLives) bool { return l.Expiring+l.Expired > 0 }) {
			return 0, errExpiring
		}
	}
	out := bufio.NewWriter(w)
	lines := json.NewEncoder(out)
	if err := lines.Encode(exported{Format: exportFormat}); err != nil {
		return 0, err
	}
	err = store.All(ctx, func(r crypto.KeyRow) error {
		if r.Kind != 0 { // a wrap key or index key without subjects, which is made anew
			return nil
		}
		if r.Life != nil { // made meanwhile
			return errExpiring
		}
		if r.Broken == nil && !complete(&r) {
			r.Broken = errors.New("a name or its wrapped key is empty")
		}
		if r.Broken != nil {
			skipped(r)
			return nil
		}
		rows++
		return lines.Encode(exported{ID: r.ID.String(), Namespace: r.Context.Namespace, Key: r.Context.Key,
			KEK: r.KEK.String(), KEKURI: r.KEKURI, Wrapped: r.Wrapped})
	})
	if err == nil {
		err = lines.Encode(exported{Rows: &rows})
	}
	if err != nil {
		return rows, err
	}
	return rows, out.Flush()
}

// Import puts the rows of an export into a store. It reads the whole export first, and puts nothing into the store if the
// export is not complete, or has a row of a name whose keys expire: those of an export do not.
func Import(ctx context.Context, store crypto.KeyStore, r io.Reader, expires func(crypto.KeyContext) bool) (rows int, err error) {
	all, err := readExport(r)
	if err != nil {
		return 0, err
	}
	for i := range all {
		if expires(all[i].Context) {
			return 0, all[i].Context.Errorf(crypto.KindNotConfigured, "import", "row %d of the export would not expire, and the config has a life for its key; "+
				"give the life to a key of another name", i+1)
		}
	}
	for i := range all {
		if err := store.Put(ctx, all[i]); err != nil {
			return i, err
		}
	}
	return len(all), nil
}

func readExport(r io.Reader) (rows []crypto.KeyRow, err error) {
	lines := json.NewDecoder(bufio.NewReader(r))
	lines.DisallowUnknownFields()
	var head exported
	if err := lines.Decode(&head); err != nil || head.Format == 0 {
		return nil, errors.New("the file is not an export of a key store")
	}
	if head.Format != exportFormat {
		return nil, fmt.Errorf("a newer release wrote the export (format %d); upgrade this one", head.Format)
	}
	for {
		var line exported
		if err := lines.Decode(&line); err != nil {
			return nil, fmt.Errorf("the export ends after %d rows, or is broken there: %w", len(rows), err)
		}
		if line.Rows != nil {
			if *line.Rows != len(rows) {
				return nil, fmt.Errorf("the export announces %d rows, and contains %d", *line.Rows, len(rows))
			}
			return rows, nil
		}
		id, err1 := hex.DecodeString(line.ID)
		kek, err2 := hex.DecodeString(line.KEK)
		row := crypto.KeyRow{Context: crypto.KeyContext{Namespace: line.Namespace, Key: line.Key}, KEKURI: line.KEKURI, Wrapped: line.Wrapped}
		if err1 != nil || err2 != nil || len(id) != len(row.ID) || len(kek) != len(row.KEK) || !complete(&row) {
			return nil, fmt.Errorf("row %d of the export is broken", len(rows)+1)
		}
		row.ID, row.KEK = crypto.KeyID(id), crypto.KEKRef(kek)
		rows = append(rows, row)
	}
}

// complete reports whether a row has what an export says of each.
func complete(r *crypto.KeyRow) bool {
	return r.Context.Namespace != "" && r.Context.Key != "" && len(r.Wrapped) > 0
}
