package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/store"
)

type auditCmd struct {
	Verify auditVerify `cmd:"" help:"Check that no audit record was changed or removed."`
	List   auditList   `cmd:"" help:"List the audit records, separated by tabs."`
}

// openAudit opens the audit chain of an existing store.
func (s keyStore) openAudit(ctx context.Context) (app.AuditStore, error) {
	if err := s.requireExisting(); err != nil {
		return nil, err
	}
	return app.OpenAudit(ctx, s.location())
}

type auditVerify struct {
	keyStore
}

// Help is what --help says beside the flags.
func (auditVerify) Help() string {
	return "The server may be running. Keep a copy of the last hash elsewhere: somebody with write access to the store could rewrite the whole chain, and only a different last hash would show it."
}

func (c auditVerify) Run(t *tool) (err error) {
	audit, err := c.openAudit(t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, audit.Close()) }()
	n, err := audit.VerifyAudit(t.ctx)
	if err != nil {
		return fmt.Errorf("the audit chain is broken: %s", explain(err))
	}
	var last []byte
	if n > 0 {
		enough := errors.New("enough")
		err := audit.AuditTrail(t.ctx, n-1, func(r store.AuditRecord) error {
			last = r.Hash
			return enough // what came since was not verified
		})
		if err != nil && !errors.Is(err, enough) {
			return err
		}
	}
	fmt.Fprintf(t.stdout, "%d records\n", n)
	if n > 0 {
		fmt.Fprintf(t.stdout, "last hash %x\n", last)
	}
	return nil
}

type auditList struct {
	keyStore
	Since since `placeholder:"TIME" help:"Only records since this time: 2026-11-23, 2026-11-23T09:30:00Z, or an age: 12h, 7d."`
}

// Help is what --help says beside the flags.
func (auditList) Help() string {
	return "The columns: number, time, tenant, action, gallery, subject, template, decision, subjects, templates and images erased, key id, request id, audit id. The server may be running."
}

func (c auditList) Run(t *tool) (err error) {
	audit, err := c.openAudit(t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, audit.Close()) }()
	from := time.Time(c.Since)
	return audit.AuditTrail(t.ctx, 0, func(r store.AuditRecord) error {
		if r.Time().Before(from) {
			return nil
		}
		fields := []string{
			strconv.FormatInt(r.Seq, 10), r.Time().Format(time.RFC3339Nano), r.Tenant, r.Action, r.Gallery, r.SubjectID, r.TemplateID,
			r.Decision, strconv.Itoa(r.Subjects), strconv.Itoa(r.Templates), strconv.Itoa(r.Images), r.KeyID, r.RequestID, r.ID,
		}
		for i := range fields {
			fields[i] = printable(fields[i])
		}
		_, err := fmt.Fprintln(t.stdout, strings.Join(fields, "\t"))
		return err
	})
}

// since is a time in the past.
type since time.Time

// UnmarshalText reads a date, a time, or an age.
func (s *since) UnmarshalText(text []byte) error {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, string(text)); err == nil {
			*s = since(at)
			return nil
		}
	}
	var l lifetime
	if err := l.UnmarshalText(text); err != nil || l == 0 {
		return fmt.Errorf("%q is not a time: use 2026-11-23, 2026-11-23T09:30:00Z, 12h or 7d", text)
	}
	*s = since(time.Now().Add(-time.Duration(l)))
	return nil
}
