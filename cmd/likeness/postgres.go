package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// postgresStore is a store in Postgres, named as the server names it.
type postgresStore struct {
	DatabaseURL  string `required:"" env:"LIKENESS_DATABASE_URL" placeholder:"URL" help:"Store of the server. It must be a Postgres."`
	PasswordFile string `name:"database-password-file" aliases:"password-file" env:"LIKENESS_DATABASE_PASSWORD_FILE" type:"path" placeholder:"FILE" help:"File with the Postgres password, if the URL does not contain it."`
}

// Validate refuses a store without a choice of search engines.
func (p postgresStore) Validate() error {
	if scheme, _, _ := strings.Cut(p.DatabaseURL, ":"); scheme != "postgres" && scheme != "postgresql" {
		// Not the URL itself: it may hold a password.
		return errors.New("--database-url: is not a Postgres; the embedded store always searches exactly, in memory")
	}
	return nil
}

// open opens the store without graphs, and shows its warnings to the operator.
func (p postgresStore) open(t *tool) (*postgres.Store, error) {
	return p.openWith(t, postgres.Options{
		Search: postgres.SearchPgvector, GraphAbove: noGraphs,
		Logger: slog.New(slog.NewTextHandler(t.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

// openWith opens the store for an engine and waits until it answers.
func (p postgresStore) openWith(t *tool, o postgres.Options) (*postgres.Store, error) {
	o.URL, o.PasswordFile = p.DatabaseURL, p.PasswordFile
	s, err := postgres.Open(t.ctx, o)
	if err != nil {
		return nil, err
	}
	if err := s.AwaitReady(t.ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Which graphs a store uses, as its GraphAbove.
const (
	allGraphs = -1
	noGraphs  = 1 << 62
)

// searchTarget is the gallery and model that a search looks through.
type searchTarget struct {
	Tenant  string `default:"${tenant}" placeholder:"NAME" help:"Tenant of the gallery (default: ${tenant})."`
	Gallery string `default:"${gallery}" placeholder:"NAME" help:"Gallery (default: ${gallery})."`
	Model   string `placeholder:"ID" help:"Encoder whose templates are searched (default: the one that the gallery has templates of)."`
}

// findHolding finds the templates that are searched, and the size in bytes of an
// index of the whole store.
func (c searchTarget) findHolding(t *tool, s *postgres.Store) (h postgres.Holding, all int64, err error) {
	holdings, err := s.Holdings(t.ctx)
	if err != nil {
		return h, 0, err
	}
	var models []string
	for _, one := range holdings {
		all += one.IndexBytes()
		if one.Tenant == c.Tenant && one.Gallery == c.Gallery && (c.Model == "" || one.ModelID == c.Model) {
			h, models = one, append(models, one.ModelID)
		}
	}
	switch {
	case len(models) == 0 && c.Model != "":
		return h, 0, fmt.Errorf("gallery %s of tenant %s has no templates of %s", c.Gallery, c.Tenant, c.Model)
	case len(models) == 0:
		return h, 0, fmt.Errorf("gallery %s of tenant %s has no templates", c.Gallery, c.Tenant)
	case len(models) > 1:
		return h, 0, usageError{fmt.Errorf("--model: the gallery has templates of %s; choose one", strings.Join(models, ", "))}
	}
	return h, all, nil
}
