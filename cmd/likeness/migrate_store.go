package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"text/tabwriter"

	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

type migrateCmd struct {
	From         string `arg:"" placeholder:"URL" help:"Store to copy: sqlite:PATH, or as --database-url of the server."`
	To           string `arg:"" placeholder:"URL" help:"Store to copy into; one that is not there is made."`
	FromPassword string `name:"from-password-file" type:"path" placeholder:"FILE" help:"File with the password of the first, a Postgres, when its URL does not hold it."`
	ToPassword   string `name:"to-password-file" type:"path" placeholder:"FILE" help:"File with the password of the second."`
	Resume       bool   `help:"Go on with a copy that was stopped: what is there already is left as it is."`
}

// Help is what --help says beside the flags.
func (migrateCmd) Help() string {
	return "Stop the servers of both stores first. This command copies the galleries of all tenants with their settings, subjects, templates, sealed crops, API keys and the audit chain, " +
		"and compares the counts and a hundred subjects at the end. " +
		"Not copied are the answers kept under an Idempotency-Key, requests under way, and when the gallery `default` was made."
}

func (c migrateCmd) Run(t *tool) (err error) {
	if c.From == c.To {
		return usageError{errors.New("both are the same store")}
	}
	from, to := keyStore{DatabaseURL: c.From, PasswordFile: c.FromPassword}, keyStore{DatabaseURL: c.To, PasswordFile: c.ToPassword}
	if err := from.requireExisting(); err != nil {
		return err
	}
	toName, _, err := to.describe()
	if err != nil {
		return err
	}
	fromName, _, err := from.describe()
	if err != nil {
		return err
	}
	if fromName == toName {
		return usageError{errors.New("both are the same store")}
	}
	quiet := slog.New(slog.DiscardHandler)
	source, err := app.OpenStore(t.ctx, app.StoreOptions{StoreLocation: from.location(), Search: "pgvector", Logger: quiet})
	if err != nil {
		return fmt.Errorf("%s: %s", fromName, explain(err))
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := app.OpenStore(t.ctx, app.StoreOptions{StoreLocation: to.location(), Search: "pgvector", Logger: quiet})
	if err != nil {
		return fmt.Errorf("%s: %s", toName, explain(err))
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	m := &storeCopy{from: source, to: target, resume: c.Resume, tool: t}
	return m.run(t.ctx)
}

const (
	// migrateBatch and migrateBytes bound what is imported at a time.
	migrateBatch = 500
	migrateBytes = 16 << 20
	// auditBatch is how many audit records are restored at a time.
	auditBatch = 500
	// spotChecks is how many subjects are compared at the end.
	spotChecks = 100
)

// storeCopy copies one store into another.
type storeCopy struct {
	from, to store.Store
	resume   bool
	tool     *tool

	galleries []migrated
	bar       *progress
	spots     []spot // chosen at random from all that were copied
	seen      int64
	damaged   []store.Place // templates that cannot be copied
}

// migrated is a gallery that is copied.
type migrated struct {
	tenant string
	face.Gallery
}

// spot is a subject that is compared at the end.
type spot struct {
	tenant, gallery string
	record          store.Record
}

func (m *storeCopy) run(ctx context.Context) error {
	records, err := m.from.VerifyAudit(ctx)
	if err != nil {
		return fmt.Errorf("the audit chain that would be copied is not whole: %s", explain(err))
	}
	subjects, err := m.look(ctx)
	if err != nil {
		return err
	}
	if err := m.audit(ctx); err != nil {
		return err
	}
	keys, err := m.keys(ctx)
	if err != nil {
		return err
	}
	m.bar = newProgress(m.tool.stderr, "copying subjects", subjects, false)
	defer m.bar.Close()
	for _, g := range m.galleries {
		if err := m.gallery(ctx, g); err != nil {
			return fmt.Errorf("gallery %s of tenant %s: %w", g.ID, g.tenant, err)
		}
	}
	m.bar.Close()
	return m.verify(ctx, keys, records)
}

// look lists the galleries and refuses a target that has something else.
func (m *storeCopy) look(ctx context.Context) (subjects int64, err error) {
	counts, err := m.from.CountTemplates(ctx)
	if err != nil {
		return 0, err
	}
	for _, c := range counts {
		g, err := m.from.Gallery(ctx, c.Tenant, c.Gallery)
		if err != nil {
			return 0, err
		}
		m.galleries = append(m.galleries, migrated{c.Tenant, g})
		subjects += int64(g.Subjects)
	}
	slices.SortFunc(m.galleries, func(a, b migrated) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.ID, b.ID))
	})
	there, err := m.to.CountTemplates(ctx)
	if err != nil || m.resume {
		return subjects, err
	}
	for _, c := range there {
		g, err := m.to.Gallery(ctx, c.Tenant, c.Gallery)
		if err != nil {
			return 0, err
		}
		ours := func(o migrated) bool { return o.tenant == c.Tenant && o.ID == c.Gallery }
		if g.Subjects > 0 && slices.ContainsFunc(m.galleries, ours) {
			return 0, fmt.Errorf("the target has %d subjects in the gallery %s of tenant %s; use --resume to go on with a copy that was stopped",
				g.Subjects, c.Gallery, c.Tenant)
		}
	}
	return subjects, nil
}

// audit copies the records that the target lacks.
func (m *storeCopy) audit(ctx context.Context) error {
	var have store.AuditChain
	if err := m.to.AuditTrail(ctx, 0, have.Next); err != nil {
		return fmt.Errorf("the audit chain of the target: %w", err)
	}
	if have.Seq > 0 && !m.resume {
		return fmt.Errorf("the target has %d audit records of its own; use --resume to go on with a copy that was stopped", have.Seq)
	}
	var batch []store.AuditRecord
	restore := func() error {
		err := m.to.RestoreAudit(ctx, batch)
		batch = batch[:0]
		return err
	}
	same := have.Seq == 0
	err := m.from.AuditTrail(ctx, max(have.Seq-1, 0), func(r store.AuditRecord) error {
		if r.Seq == have.Seq {
			same = bytes.Equal(r.Hash, have.Hash)
			return nil
		}
		if !same {
			return nil
		}
		if batch = append(batch, r); len(batch) < auditBatch {
			return nil
		}
		return restore()
	})
	if err == nil && !same {
		err = errors.New("the target has audit records of another store")
	}
	if err == nil && len(batch) > 0 {
		err = restore()
	}
	return err
}

// keys copies the API keys and returns how many there are.
func (m *storeCopy) keys(ctx context.Context) (int, error) {
	list, err := m.from.ListKeys(ctx, "")
	if err != nil {
		return 0, err
	}
	for _, k := range list {
		err := m.to.CreateKey(ctx, k)
		if errors.Is(err, face.Conflict) {
			old, lookErr := m.to.KeyByHash(ctx, k.Hash)
			if lookErr == nil && old.ID == k.ID {
				err = nil
				if !k.RevokedAt.IsZero() && old.RevokedAt.IsZero() {
					err = m.to.RevokeKey(ctx, k.ID, k.RevokedAt)
				}
			}
		}
		if err != nil {
			return 0, fmt.Errorf("key %s: %w", k.ID, err)
		}
	}
	return len(list), nil
}

// gallery copies one gallery.
func (m *storeCopy) gallery(ctx context.Context, g migrated) error {
	if err := m.settings(ctx, g); err != nil {
		return err
	}
	var batch []store.Record
	size := 0
	flush := func() error {
		outcomes, err := m.to.Import(ctx, g.tenant, g.ID, batch)
		if err != nil {
			return err
		}
		for i, o := range outcomes {
			if o.Err != nil {
				return fmt.Errorf("subject %s: %w", batch[i].Subject.ID, o.Err)
			}
		}
		m.bar.Add(int64(len(batch)))
		batch, size = batch[:0], 0
		return nil
	}
	err := m.from.Export(ctx, g.tenant, g.ID, "", func(r store.Record) error {
		r.Templates = slices.DeleteFunc(r.Templates, func(t face.Template) bool {
			if t.Embedding != nil {
				return false
			}
			r.Subject.Templates--
			m.damaged = append(m.damaged, store.Place{Tenant: g.tenant, Gallery: g.ID, SubjectID: r.Subject.ID, TemplateID: t.ID})
			return true
		})
		m.choose(spot{g.tenant, g.ID, r})
		batch = append(batch, r)
		for _, t := range r.Templates {
			size += 4*len(t.Embedding) + len(t.Crop)
		}
		if len(batch) < migrateBatch && size < migrateBytes {
			return nil
		}
		return flush()
	})
	if err == nil && len(batch) > 0 {
		err = flush()
	}
	return err
}

// settings makes the gallery, or makes the one that is there alike.
func (m *storeCopy) settings(ctx context.Context, g migrated) error {
	_, err := m.to.CreateGallery(ctx, g.tenant, g.Gallery)
	if !errors.Is(err, face.Conflict) {
		return err
	}
	have, err := m.to.Gallery(ctx, g.tenant, g.ID)
	if err != nil {
		return err
	}
	if have.ModelID != g.ModelID {
		// The model of a gallery changes as it does for everybody: by a move,
		// which is over at once while nobody is in it.
		if _, err := m.to.UpdateGallery(ctx, g.tenant, g.ID, store.GalleryChange{NextModelID: &g.ModelID}); err != nil {
			return err
		}
		if _, err := m.to.CutOver(ctx, g.tenant, g.ID, g.ModelID); err != nil {
			return fmt.Errorf("it is searched with %q there, not with %q: %w", have.ModelID, g.ModelID, err)
		}
	}
	_, err = m.to.UpdateGallery(ctx, g.tenant, g.ID, store.GalleryChange{
		RetentionDays: &g.RetentionDays, StoreImages: &g.StoreImages, NextModelID: &g.NextModelID,
	})
	return err
}

// choose keeps each subject with the same chance.
func (m *storeCopy) choose(s spot) {
	m.seen++
	if len(m.spots) < spotChecks {
		m.spots = append(m.spots, s)
	} else if at := rand.Int64N(m.seen); at < spotChecks {
		m.spots[at] = s
	}
}

// verify compares both stores and prints what was copied.
func (m *storeCopy) verify(ctx context.Context, keys int, records int64) error {
	var faults []error
	w := tabwriter.NewWriter(m.tool.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tGALLERY\tSUBJECTS\tTEMPLATES\tSTATE")
	for _, g := range m.galleries {
		have, err := m.to.Gallery(ctx, g.tenant, g.ID)
		if err != nil {
			return err
		}
		state := "copied"
		want := g.Gallery
		for _, d := range m.damaged {
			if d.Tenant == g.tenant && d.Gallery == g.ID {
				want.Templates--
			}
		}
		if g.ID == face.DefaultGallery || have.CreatedAt.Equal(want.CreatedAt) {
			have.CreatedAt = want.CreatedAt // that of the default one is its own
		}
		if have != want {
			state = fmt.Sprintf("differs: the target has %d subjects, %d templates", have.Subjects, have.Templates)
			faults = append(faults, fmt.Errorf("gallery %s of tenant %s differs", g.ID, g.tenant))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", g.tenant, g.ID, g.Subjects, g.Templates, state)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, d := range m.damaged {
		faults = append(faults, fmt.Errorf("the template %s of subject %s of gallery %s of tenant %s is damaged and was left behind: enrol the subject again",
			d.TemplateID, d.SubjectID, d.Gallery, d.Tenant))
	}
	for _, s := range m.spots {
		if err := m.compare(ctx, s); err != nil {
			faults = append(faults, fmt.Errorf("subject %s of gallery %s of tenant %s: %w", s.record.Subject.ID, s.gallery, s.tenant, err))
		}
	}
	if err := m.unchanged(ctx, keys, records); err != nil {
		faults = append(faults, err)
	}
	switch n, err := m.to.VerifyAudit(ctx); {
	case err != nil:
		return err
	case n != records:
		faults = append(faults, fmt.Errorf("the target has %d audit records, not %d", n, records))
	}
	if len(faults) > 0 {
		return fmt.Errorf("the copy is not the same: %w", errors.Join(faults...))
	}
	_, err := fmt.Fprintf(m.tool.stdout, "%d API keys, %d audit records; %d subjects compared number by number\n", keys, records, len(m.spots))
	return err
}

// unchanged wants the source to hold as much as when the copy began: a server
// that went on writing would have its last people left behind.
func (m *storeCopy) unchanged(ctx context.Context, keys int, records int64) error {
	counts, err := m.from.CountTemplates(ctx)
	if err != nil {
		return err
	}
	list, err := m.from.ListKeys(ctx, "")
	if err != nil {
		return err
	}
	n, err := m.from.VerifyAudit(ctx)
	if err != nil {
		return err
	}
	same := len(counts) == len(m.galleries) && len(list) == keys && n == records
	for _, g := range m.galleries {
		now, err := m.from.Gallery(ctx, g.tenant, g.ID)
		if err != nil && !errors.Is(err, face.NotFound) {
			return err
		}
		same = same && now == g.Gallery
	}
	if !same {
		return errors.New("the source changed during the copy: stop its server, then go on with --resume")
	}
	return nil
}

// compare wants a subject to be the same in the target, bit for bit.
func (m *storeCopy) compare(ctx context.Context, s spot) error {
	sub, err := m.to.Subject(ctx, s.tenant, s.gallery, s.record.Subject.ID)
	if err != nil {
		return err
	}
	templates, err := m.to.Templates(ctx, s.tenant, s.gallery, s.record.Subject.ID, "")
	if err != nil {
		return err
	}
	want, crops := slices.Clone(s.record.Templates), map[string][]byte{}
	for i := range want {
		if crop := want[i].Crop; crop != nil || crops[want[i].SampleID] == nil {
			crops[want[i].SampleID] = crop
		}
		want[i].Crop = nil
	}
	if !reflect.DeepEqual(sub, s.record.Subject) {
		return errors.New("the subject differs")
	}
	if len(want) != len(templates) || len(want) > 0 && !reflect.DeepEqual(want, templates) {
		return errors.New("a template differs")
	}
	for id, crop := range crops {
		have, err := m.to.Sample(ctx, s.tenant, s.gallery, id)
		if err != nil && !errors.Is(err, face.NotFound) {
			return err
		}
		if !bytes.Equal(have.Crop, crop) {
			return errors.New("a crop differs")
		}
	}
	return nil
}
