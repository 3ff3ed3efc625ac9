package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/face"
)

type keysCmd struct {
	Create keysCreate `cmd:"" help:"Create a key. Its secret is printed once, to stdout, and is not stored."`
	List   keysList   `cmd:"" help:"List keys. Secrets are not stored, so they cannot be listed."`
	Revoke keysRevoke `cmd:"" help:"Revoke a key. A running server refuses it from the next request on."`
}

// keyStore says where the server's store is. The flags have the same names and
// variables as the server's own, so that both use the same store.
type keyStore struct {
	dataDir
	DatabaseURL  string `env:"LIKENESS_DATABASE_URL" placeholder:"URL" help:"Store of the server, if it is not in the data folder: postgres://USER@HOST/NAME or sqlite:PATH."`
	PasswordFile string `name:"database-password-file" env:"LIKENESS_DATABASE_PASSWORD_FILE" type:"path" placeholder:"FILE" help:"File with the Postgres password, if the URL does not contain it."`
}

func (s keyStore) location() app.StoreLocation {
	return app.StoreLocation{DatabaseURL: s.DatabaseURL, PasswordFile: s.PasswordFile, DataDir: s.DataDir}
}

// describe returns a name of the store for people, and whether it exists.
func (s keyStore) describe() (name string, there bool, err error) {
	name, there, err = s.location().Name()
	if errors.Is(err, face.Invalid) {
		err = usageError{fmt.Errorf("--database-url: %s", explain(err))}
	}
	return name, there, err
}

// requireExisting returns an error for a store that does not exist. A mistyped
// folder must not become a new, empty store without keys.
func (s keyStore) requireExisting() error {
	name, there, err := s.describe()
	if err == nil && !there {
		err = fmt.Errorf("there is no store at %s; name the server's folder with --data-dir or LIKENESS_DATA_DIR", name)
	}
	return err
}

// openKeys opens the keys of an existing store.
func (s keyStore) openKeys(ctx context.Context) (app.KeyStore, error) {
	if err := s.requireExisting(); err != nil {
		return nil, err
	}
	return app.OpenKeys(ctx, s.location())
}

type keysCreate struct {
	keyStore
	Name    string   `required:"" placeholder:"NAME" help:"Name of the key, such as the system that will use it."`
	Scopes  []string `required:"" placeholder:"SCOPE" help:"What the key may do, separated by commas: verify, identify, enrol, read, style. admin includes all of them."`
	Tenant  string   `default:"${tenant}" placeholder:"NAME" help:"Tenant whose galleries the key may use (default: ${tenant})."`
	Expires lifetime `default:"never" placeholder:"90d" help:"When the key expires: in days (90d), in hours (12h), or never (default)."`
}

// Validate refuses keys that could be stored but not be used.
func (c keysCreate) Validate() error {
	for _, s := range c.Scopes {
		if !slices.Contains(face.Scopes(), face.Scope(s)) {
			return fmt.Errorf("--scopes: %q is none of %s", s, joinWords(face.Scopes()))
		}
	}
	if !face.ValidID(c.Tenant) {
		return fmt.Errorf("--tenant: %q is not 1 to 128 letters, digits and ._@-", c.Tenant)
	}
	if c.Name == "" || len([]rune(c.Name)) > face.MaxNameLength {
		return fmt.Errorf("--name: must have 1 to %d letters", face.MaxNameLength)
	}
	return nil
}

func (c keysCreate) Run(t *tool) (err error) {
	store, _, err := c.describe()
	if err != nil {
		return err
	}
	keys, err := app.OpenKeys(t.ctx, c.location())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	var scopes []face.Scope
	for _, s := range c.Scopes {
		if !slices.Contains(scopes, face.Scope(s)) {
			scopes = append(scopes, face.Scope(s))
		}
	}
	var expires time.Time
	if c.Expires > 0 {
		expires = time.Now().Add(time.Duration(c.Expires)).UTC().Truncate(time.Second)
	}
	secret, key := face.NewKey(c.Tenant, c.Name, scopes, expires)
	if err := keys.CreateKey(t.ctx, key); err != nil {
		return err
	}
	fmt.Fprintf(t.stderr, "key %s of tenant %s with scopes %s; expires: %s; valid for servers that use %s\nIts secret, which is shown only now:\n",
		key.ID, key.Tenant, joinWords(key.Scopes), formatTime(key.ExpiresAt), store)
	_, err = fmt.Fprintln(t.stdout, secret)
	return err
}

type keysList struct {
	keyStore
	Tenant string `placeholder:"NAME" help:"Only the keys of this tenant."`
}

func (c keysList) Run(t *tool) (err error) {
	keys, err := c.openKeys(t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	list, err := keys.ListKeys(t.ctx, c.Tenant)
	if err != nil {
		return err
	}
	now := time.Now()
	w := tabwriter.NewWriter(t.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTENANT\tNAME\tSCOPES\tCREATED\tEXPIRES\tSTATE")
	for _, k := range list {
		state := "live"
		switch {
		case !k.RevokedAt.IsZero():
			state = "revoked " + formatTime(k.RevokedAt)
		case !k.Live(now):
			state = "expired"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			k.ID, k.Tenant, printable(k.Name), joinWords(k.Scopes), formatTime(k.CreatedAt), formatTime(k.ExpiresAt), state)
	}
	return w.Flush()
}

type keysRevoke struct {
	keyStore
	ID string `arg:"" help:"Id of the key, as keys list shows it; not the secret."`
}

func (c keysRevoke) Run(t *tool) (err error) {
	if strings.HasPrefix(c.ID, "lk_") {
		return usageError{errors.New("this is a secret, not an id; `likeness keys list` shows the ids")}
	}
	keys, err := c.openKeys(t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	if err := keys.RevokeKey(t.ctx, c.ID, time.Now().UTC()); err != nil {
		if errors.Is(err, face.NotFound) {
			return errors.New("there is no key with this id; `likeness keys list` shows the ids")
		}
		return err
	}
	_, err = fmt.Fprintf(t.stdout, "key %s is revoked\n", c.ID)
	return err
}

// lifetime is how long a key is valid; 0 means that it never expires.
type lifetime time.Duration

// maxLifetime keeps a mistyped number from becoming a date that overflows.
const maxLifetime = 100 * 365 * 24 * time.Hour

// UnmarshalText reads "never", a number of days ("90d"), or what
// [time.ParseDuration] reads.
func (l *lifetime) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "never" {
		*l = 0
		return nil
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		n = min(max(n, 0), int(maxLifetime/(24*time.Hour))+1)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 || d > maxLifetime {
		return fmt.Errorf("%q is not a lifetime: use days (90d), hours (12h) or never", s)
	}
	*l = lifetime(d)
	return nil
}

// formatTime is a time in UTC, or "never" for the zero time.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}

// joinWords joins words with commas.
func joinWords[S ~string](words []S) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = string(w)
	}
	return strings.Join(out, ",")
}

// printable replaces control characters, so that stored text cannot move the
// cursor of the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
