//go:build !nosqlite

package keystore

// The build tag nosqlite leaves SQLite out.
import _ "modernc.org/sqlite" // the driver "sqlite"
