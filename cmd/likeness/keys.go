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
	Create keysCreate `cmd:"" help:"Make a key. Its secret is printed once, to stdout, and kept nowhere."`
	List   keysList   `cmd:"" help:"List keys; no secret is among what is kept."`
	Revoke keysRevoke `cmd:"" help:"Revoke a key. A running server refuses it from its next request."`
}

// keyStore is where the server keeps its keys: the same two settings say so
// there, or a key would lie where no server looks.
type keyStore struct {
	dataDir
	DatabaseURL  string `env:"LIKENESS_DATABASE_URL" placeholder:"URL" help:"Store of the server, when it is not in the data folder: postgres://USER@HOST/NAME or sqlite:PATH."`
	PasswordFile string `name:"database-password-file" env:"LIKENESS_DATABASE_PASSWORD_FILE" type:"path" placeholder:"FILE" help:"File with the password of the Postgres, when its URL does not hold it."`
}

func (s keyStore) location() app.Place {
	return app.Place{DatabaseURL: s.DatabaseURL, PasswordFile: s.PasswordFile, DataDir: s.DataDir}
}

// describe is what to call the store, and whether it is there.
func (s keyStore) describe() (name string, there bool, err error) {
	name, there, err = s.location().Name()
	if errors.Is(err, face.Invalid) {
		err = usageError{fmt.Errorf("--database-url: %s", explain(err))}
	}
	return name, there, err
}

// requireExisting is an error for a store that is not. A mistyped folder must not
// become a new, empty store: it would say that there are no keys.
func (s keyStore) requireExisting() error {
	name, there, err := s.describe()
	if err == nil && !there {
		err = fmt.Errorf("there is no store at %s; name the server's folder with --data-dir or LIKENESS_DATA_DIR", name)
	}
	return err
}

// openKeys opens the keys of a store that is there.
func (s keyStore) openKeys(ctx context.Context) (app.KeyStore, error) {
	if err := s.requireExisting(); err != nil {
		return nil, err
	}
	return app.OpenKeys(ctx, s.location())
}

type keysCreate struct {
	keyStore
	Name    string   `required:"" placeholder:"NAME" help:"What you call it, such as the system that will use it."`
	Scopes  []string `required:"" placeholder:"SCOPE" help:"What it may do, separated by commas: verify, identify, enrol, read, style; admin includes all."`
	Tenant  string   `default:"${tenant}" placeholder:"NAME" help:"Tenant whose galleries it sees (default: ${tenant})."`
	Expires lifetime `default:"never" placeholder:"90d" help:"How long it is good for: days (90d), hours (12h), or never (default)."`
}

// Validate refuses what the store would keep but nobody could use.
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
		return fmt.Errorf("--name: say what you call the key, in 1 to %d letters", face.MaxNameLength)
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
	fmt.Fprintf(t.stderr, "key %s for tenant %s may %s; expires: %s; good for a server whose store is %s\nthis is its secret, shown only now:\n",
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
		return usageError{errors.New("that is a secret, not an id; `likeness keys list` shows the ids")}
	}
	keys, err := c.openKeys(t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	if err := keys.RevokeKey(t.ctx, c.ID, time.Now().UTC()); err != nil {
		if errors.Is(err, face.NotFound) {
			return errors.New("there is no key of that id; `likeness keys list` shows them")
		}
		return err
	}
	_, err = fmt.Fprintf(t.stdout, "key %s is revoked\n", c.ID)
	return err
}

// lifetime is how long a key is good for; 0 is for ever.
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
		return fmt.Errorf("%q is no lifetime: give days (90d), hours (12h) or never", s)
	}
	*l = lifetime(d)
	return nil
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}

func joinWords[S ~string](words []S) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = string(w)
	}
	return strings.Join(out, ",")
}

// printable keeps what somebody typed long ago from moving the cursor today.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
