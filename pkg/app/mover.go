package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/likeness-id/likeness/internal/seal"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/handlers"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/store"
)

const (
	// moveEvery is how often the mover looks for work that nobody woke it for:
	// the last one who was not covered may have been erased.
	moveEvery = time.Minute
	// moveRest is how many times as long as a pass took the mover rests after
	// it, a minute at most: in a large gallery that waits for photos, each new
	// one wakes it.
	moveRest = 4
	// moveBatch is how many samples are asked for at a time.
	moveBatch = 100
	// moveAgain is how long the mover leaves a full gate to the requests.
	moveAgain = 200 * time.Millisecond
	// moveLog is how often the log says how far it is.
	moveLog = 10 * time.Second
)

// crops seals and opens the crops that galleries keep; without keys neither.
type crops struct {
	keys *seal.Sealer
}

func openCrops(files []string) (crops, error) {
	if len(files) == 0 {
		return crops{}, nil
	}
	keys, err := seal.ReadKeys(files...)
	if err != nil {
		return crops{}, fmt.Errorf("--crop-key-file: %w", err)
	}
	return crops{keys}, nil
}

// sealer is what the handlers seal with, or nil.
func (c crops) sealer() identity.Sealer {
	if c.keys == nil {
		return nil
	}
	return c
}

// SealCrop implements [identity.Sealer].
func (c crops) SealCrop(tenant, gallery, sample string, crop []byte) []byte {
	return c.keys.Seal(crop, place(tenant, gallery, sample))
}

func (c crops) openCrop(tenant, gallery string, s store.Sample) ([]byte, error) {
	if c.keys == nil {
		return nil, seal.ErrKey
	}
	return c.keys.Open(s.Crop, place(tenant, gallery, s.ID))
}

// place is where a crop belongs; ids have no zero byte.
func place(tenant, gallery, sample string) []byte {
	return []byte(strings.Join([]string{tenant, gallery, sample}, "\x00"))
}

// servable checks that this server can do what the galleries ask of it, and
// loads their encoders, so that what is missing shows at the start. A missing
// one that a gallery is being moved to is no reason not to answer the others.
func servable(ctx context.Context, s store.Store, p *likeness.Pipeline, c crops, log *slog.Logger) error {
	return eachGallery(ctx, s, func(tenant string, g face.Gallery) error {
		name := label(tenant, g.ID)
		if g.StoreImages && c.keys == nil {
			return fmt.Errorf("--crop-key-file: the gallery %s stores images, and there is no key to seal them with", name)
		}
		g, err := keepEncoder(ctx, s, p, tenant, g, log)
		if errors.Is(err, face.NotFound) {
			return nil // erased meanwhile
		}
		if err != nil {
			return err
		}
		if g.ModelID != "" {
			if m, err := p.Registry.Model(g.ModelID); err == nil && m.Path == "" {
				return fmt.Errorf("the gallery %s needs the encoder %s, whose file (%s) is not there: %s", name, m.ID, m.File, howToGet(m))
			}
			if err := p.Prepare(ctx, g.ModelID); err != nil {
				return fmt.Errorf("the gallery %s needs the encoder %s: %w", name, g.ModelID, err)
			}
		}
		if g.NextModelID != "" {
			if err := p.Prepare(ctx, g.NextModelID); err != nil {
				log.Error("the encoder that a gallery is being moved to cannot be used: nobody can be enrolled in it here, "+
					"and this server will not be ready once it is moved", "gallery", name, "encoder", g.NextModelID, "error", err)
			}
		}
		return nil
	})
}

// keepEncoder lets a gallery that was never moved keep the encoder that
// everybody in it was enrolled with, where the server's is another one since:
// nobody would be known otherwise.
func keepEncoder(ctx context.Context, s store.Store, p *likeness.Pipeline, tenant string, g face.Gallery, log *slog.Logger) (face.Gallery, error) {
	if g.ModelID != "" || g.Templates == 0 {
		return g, nil
	}
	own := p.Encoder().ID
	c, err := s.Coverage(ctx, tenant, g.ID, own)
	if err != nil || c.Covered > 0 {
		return g, err
	}
	for _, m := range p.Registry.Models() {
		if m.Task != embed.TaskEncoder || m.ID == own {
			continue
		}
		c, err := s.Coverage(ctx, tenant, g.ID, m.ID)
		if err != nil {
			return g, err
		}
		if c.Covered < c.Subjects {
			continue
		}
		log.Info("the gallery keeps the encoder that it was enrolled with; `likeness models migrate` moves it",
			"gallery", label(tenant, g.ID), "encoder", m.ID, "server", own)
		next := g.NextModelID // of a move that was under way
		if _, err := s.UpdateGallery(ctx, tenant, g.ID, store.GalleryChange{NextModelID: &m.ID}); err != nil {
			return g, err
		}
		kept, err := s.CutOver(ctx, tenant, g.ID, m.ID)
		if errors.Is(err, face.Conflict) { // another server was quicker
			return s.Gallery(ctx, tenant, g.ID)
		}
		if err != nil || next == "" {
			return kept, err
		}
		return s.UpdateGallery(ctx, tenant, g.ID, store.GalleryChange{NextModelID: &next})
	}
	return g, nil
}

// eachGallery calls f for every gallery of every tenant, until its first error.
func eachGallery(ctx context.Context, s store.Store, f func(tenant string, g face.Gallery) error) error {
	all, err := s.CountTemplates(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		g, err := s.Gallery(ctx, c.Tenant, c.Gallery)
		if errors.Is(err, face.NotFound) {
			continue
		}
		if err == nil {
			err = f(c.Tenant, g)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// label is a gallery's name in metrics and log.
func label(tenant, gallery string) string {
	if tenant == face.DefaultTenant {
		return gallery
	}
	return tenant + "/" + gallery
}

// cropEncoder is the part of the pipeline that the mover needs.
type cropEncoder interface {
	Prepare(ctx context.Context, encoders ...string) error
	EmbedCrop(ctx context.Context, crop []byte, encoder string) (face.Embedding, error)
	Encoder() embed.Manifest
}

// mover makes templates of the crops of galleries that are on their way to
// another encoder, one at a time, so that it never takes more than one slot
// from the requests, and lets a gallery cut over when everybody is covered.
// What it has done is in the store, so it goes on after a restart where it
// was, and two servers do no harm to each other.
type mover struct {
	store    store.Store
	pipeline cropEncoder
	crops    crops
	log      *slog.Logger
	wake     chan struct{}

	pending    *prometheus.GaugeVec
	reembedded prometheus.Counter

	prepared map[string]bool // encoders that can be used; the mover's own

	mu      sync.Mutex
	known   map[move]*progress
	lacking error // what some gallery is searched with and this server lacks
}

// move is a gallery on its way to a model.
type move struct{ tenant, gallery, model string }

type progress struct {
	handlers.Progress
	failed  map[string]string // crops of no use, by sample: the subject
	doubted map[string]bool   // samples that ended an earlier pass: their crop's fault, or the machine's
}

func newMover(s store.Store, p cropEncoder, c crops, log *slog.Logger, r prometheus.Registerer) *mover {
	m := &mover{
		store: s, pipeline: p, crops: c, log: log, wake: make(chan struct{}, 1),
		prepared: map[string]bool{}, known: map[move]*progress{},
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "likeness_model_migration_pending",
			Help: "Crops that are still to be encoded, by the gallery that is moved to another encoder.",
		}, []string{"gallery"}),
		reembedded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "likeness_model_migration_reembedded_total",
			Help: "Templates made of crops.",
		}),
	}
	r.MustRegister(m.pending, m.reembedded)
	return m
}

// Wake implements [handlers.Mover].
func (m *mover) Wake() {
	select {
	case m.wake <- struct{}{}:
	default: // it is about to look anyway
	}
}

// Progress implements [handlers.Mover].
func (m *mover) Progress(tenant, gallery, modelID string) handlers.Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p, ok := m.known[move{tenant, gallery, modelID}]; ok {
		return p.Progress
	}
	return handlers.Progress{}
}

// ready says whether this server can serve every gallery, as far as the last
// pass knows: another server may have moved one to an encoder that is not here.
func (m *mover) ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lacking
}

// served checks that a gallery can be searched here.
func (m *mover) served(ctx context.Context, tenant string, g face.Gallery) error {
	if g.ModelID == "" || m.prepared[g.ModelID] {
		return nil
	}
	err := m.pipeline.Prepare(ctx, g.ModelID)
	switch {
	case err == nil:
		m.prepared[g.ModelID] = true
		return nil
	case ctx.Err() != nil, errors.Is(err, face.Overloaded):
		return nil //nolint:nilerr // It says nothing about the encoder.
	}
	return &face.Error{
		Kind: face.Unavailable, Op: "app.ready", Err: err,
		Detail: fmt.Sprintf("the gallery %s needs the encoder %s, which this server cannot load", label(tenant, g.ID), g.ModelID),
	}
}

// run looks for work at once, when it is woken and now and then, until ctx
// ends.
func (m *mover) run(ctx context.Context) {
	tick := time.NewTicker(moveEvery)
	defer tick.Stop()
	if err := eachGallery(ctx, m.store, func(tenant string, g face.Gallery) error { return m.warn(ctx, tenant, g) }); err != nil && ctx.Err() == nil {
		m.log.Error("look for people of other models", "error", err)
	}
	for {
		start := time.Now()
		err := m.pass(ctx)
		pause := min(moveRest*time.Since(start), moveEvery)
		if err != nil && ctx.Err() == nil {
			m.log.Error("move galleries to another encoder; trying again", "error", err)
			pause = moveEvery // what is wrong has time to pass
		}
		rest := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-rest.C:
		}
		rest.Stop()
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-tick.C:
		}
	}
}

// warn tells of people whom a change of --encoder left behind.
func (m *mover) warn(ctx context.Context, tenant string, g face.Gallery) error {
	own := m.pipeline.Encoder().ID
	if g.ModelID != "" || g.NextModelID != "" || g.Templates == 0 {
		return nil
	}
	c, err := m.store.Coverage(ctx, tenant, g.ID, own)
	if errors.Is(err, face.NotFound) {
		return nil // erased meanwhile
	}
	if err == nil && c.Covered < c.Subjects {
		m.log.Warn("people were enrolled with another encoder than this server's and are not known: "+
			"start with that --encoder and run `likeness models migrate`, or run it now for those with crops",
			"gallery", label(tenant, g.ID), "encoder", own, "subjects", c.Subjects, "covered", c.Covered)
	}
	return err
}

// pass works on every gallery on its way until there is nothing left to do,
// and finds out whether all galleries can be served.
func (m *mover) pass(ctx context.Context) error {
	moving := map[move]bool{}
	var lacking error
	var errs []error
	err := eachGallery(ctx, m.store, func(tenant string, g face.Gallery) error {
		if err := m.served(ctx, tenant, g); err != nil && lacking == nil {
			lacking = err
		}
		if g.NextModelID == "" {
			return nil
		}
		mv := move{tenant, g.ID, g.NextModelID}
		arrived, err := m.move(ctx, mv)
		moving[mv] = !arrived
		if err != nil && !errors.Is(err, face.NotFound) {
			// The others need not wait for what is wrong with this one.
			errs = append(errs, fmt.Errorf("gallery %s: %w", label(tenant, g.ID), err))
		}
		return ctx.Err()
	})
	if err == nil {
		m.forget(moving)
		m.tell(func() { m.lacking = lacking })
	}
	return errors.Join(append(errs, err, lacking)...)
}

// forget drops what is known of galleries that are not on their way any more.
func (m *mover) forget(moving map[move]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for mv := range m.known {
		if !moving[mv] {
			delete(m.known, mv)
			m.pending.DeleteLabelValues(label(mv.tenant, mv.gallery))
		}
	}
}

// move makes the templates that a gallery lacks and lets it cut over when
// that covers everybody.
func (m *mover) move(ctx context.Context, mv move) (arrived bool, err error) {
	m.mu.Lock()
	p, ok := m.known[mv]
	if !ok {
		p = &progress{failed: map[string]string{}, doubted: map[string]bool{}}
		m.known[mv] = p
	}
	m.mu.Unlock()
	var c store.Coverage
	for before := -1; ; before = c.Pending {
		worked, err := m.reembedAll(ctx, mv, p)
		if err != nil {
			return false, err
		}
		if c, err = m.store.Coverage(ctx, mv.tenant, mv.gallery, mv.model); err != nil {
			return false, err
		}
		// Once more for those who came meanwhile, but not for work without effect.
		if !worked || before >= 0 && c.Pending >= before {
			break
		}
	}
	if c.Covered < c.Subjects { // which the store would find out too, while others wait to write
		return false, m.findUncovered(ctx, mv, p)
	}
	switch _, err := m.store.CutOver(ctx, mv.tenant, mv.gallery, mv.model); {
	case err == nil:
		m.log.Info("the gallery is searched with another encoder from now on", "gallery", label(mv.tenant, mv.gallery), "encoder", mv.model)
		return true, nil
	case errors.Is(err, face.Conflict): // somebody came meanwhile, and woke us
		return false, nil
	default:
		return false, err
	}
}

// reembedAll goes once through the samples that are pending. It reports
// whether anything was done, and so whether more may have come meanwhile.
func (m *mover) reembedAll(ctx context.Context, mv move, p *progress) (worked bool, err error) {
	name := label(mv.tenant, mv.gallery)
	gauge := m.pending.WithLabelValues(name)
	gauge.Set(0)
	start, told, done, pending, failed := time.Now(), time.Now(), 0, 0, map[string]string{}
	for after := ""; ; {
		list, err := m.store.PendingSamples(ctx, mv.tenant, mv.gallery, mv.model, after, moveBatch)
		if err != nil {
			return false, err
		}
		if after == "" && len(list) > 0 {
			c, err := m.store.Coverage(ctx, mv.tenant, mv.gallery, mv.model)
			if err != nil {
				return false, err
			}
			pending = max(c.Pending-len(p.failed), 0)
			gauge.Set(float64(pending))
		}
		for _, s := range list {
			after = s.ID
			if _, known := p.failed[s.ID]; known {
				failed[s.ID] = s.SubjectID
				continue
			}
			usable, err := m.reembed(ctx, mv, s, p.doubted)
			if err != nil {
				return false, err
			}
			if !usable {
				// In the former as well, should the pass not come to its end.
				p.failed[s.ID], failed[s.ID] = s.SubjectID, s.SubjectID
			}
			done++
			gauge.Dec()
			if time.Since(told) > moveLog {
				told = time.Now()
				m.log.Info("moving a gallery to another encoder", "gallery", name, "encoder", mv.model, "done", done, "pending", max(pending-done, 0))
			}
		}
		if done > 0 {
			m.tell(func() { p.PerSecond = float64(done) / time.Since(start).Seconds() })
		}
		if len(list) < moveBatch {
			break
		}
		// The move may have been ended.
		if g, err := m.store.Gallery(ctx, mv.tenant, mv.gallery); err != nil || g.NextModelID != mv.model {
			return false, err
		}
	}
	m.tell(func() { p.failed, p.UnusableCrops = failed, len(failed) })
	if done > 0 {
		m.log.Info("made templates for another encoder", "gallery", name, "encoder", mv.model, "samples", done, "unusable", len(failed),
			"seconds", time.Since(start).Seconds())
	}
	return done > 0, nil
}

// tell changes what Progress and ready answer.
func (m *mover) tell(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// reembed makes the template of one sample. A crop of which none can be made
// is not usable, and will not be. What is Internal may be a lack of memory, so
// it ends the pass, and speaks against the crop when it comes again.
func (m *mover) reembed(ctx context.Context, mv move, s store.Sample, doubted map[string]bool) (usable bool, err error) {
	s, err = m.store.Sample(ctx, mv.tenant, mv.gallery, s.ID)
	if errors.Is(err, face.NotFound) {
		return true, nil // erased meanwhile
	}
	if err != nil {
		return false, err
	}
	crop, err := m.crops.openCrop(mv.tenant, mv.gallery, s)
	var e face.Embedding
	if err == nil {
		e, err = m.encode(ctx, crop, mv.model)
	}
	switch kind := face.KindOf(err); {
	case err == nil:
	case errors.Is(err, seal.ErrKey), errors.Is(err, seal.ErrDamaged), kind == face.InvalidImage, kind == face.Internal && doubted[s.ID]:
		m.log.Warn("a crop is of no use for another encoder", "gallery", label(mv.tenant, mv.gallery), "encoder", mv.model,
			"subject_id", s.SubjectID, "sample_id", s.ID, "error", err)
		return false, nil
	default:
		if kind == face.Internal {
			doubted[s.ID] = true
		}
		return false, fmt.Errorf("sample %s: %w", s.ID, err)
	}
	delete(doubted, s.ID)
	made, err := m.store.AddToSample(ctx, mv.tenant, mv.gallery, face.Template{
		ID: face.SampleTemplateID(s.ID, mv.model), SubjectID: s.SubjectID, SampleID: s.ID, ModelID: mv.model,
		Embedding: e, Quality: s.Quality, CreatedAt: s.CreatedAt,
	})
	switch {
	case errors.Is(err, face.NotFound):
		return true, nil // erased meanwhile
	case errors.Is(err, face.Conflict), err == nil && made.SampleID != s.ID:
		// Another server was faster, and then it is not asked for again; or the
		// template_id is taken, and it never has to be.
		m.log.Warn("the template_id of a crop is taken", "gallery", label(mv.tenant, mv.gallery), "encoder", mv.model,
			"subject_id", s.SubjectID, "sample_id", s.ID, "template_id", face.SampleTemplateID(s.ID, mv.model))
		return false, nil
	case err == nil:
		m.reembedded.Inc()
		return true, nil
	}
	return false, err
}

// encode waits where requests have filled the gate: they come first.
func (m *mover) encode(ctx context.Context, crop []byte, model string) (face.Embedding, error) {
	for {
		e, err := m.pipeline.EmbedCrop(ctx, crop, model)
		if !errors.Is(err, face.Overloaded) {
			return e, err
		}
		select {
		case <-ctx.Done():
			return nil, face.Wrap(face.Canceled, "app.mover", ctx.Err())
		case <-time.After(moveAgain):
		}
	}
}

// findUncovered lists whom the crops of no use leave without a template.
func (m *mover) findUncovered(ctx context.Context, mv move, p *progress) error {
	subjects := map[string]bool{}
	for _, subject := range p.failed {
		subjects[subject] = true
	}
	var uncovered []string
	for subject := range subjects {
		templates, err := m.store.Templates(ctx, mv.tenant, mv.gallery, subject, mv.model)
		switch {
		case errors.Is(err, face.NotFound):
		case err != nil:
			return err
		case len(templates) == 0:
			uncovered = append(uncovered, subject)
		}
	}
	slices.Sort(uncovered)
	m.tell(func() { p.Uncovered = uncovered })
	return nil
}
