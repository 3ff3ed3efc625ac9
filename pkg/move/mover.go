// Package move moves galleries from one encoder to another. A move makes a
// template of the new encoder from each crop that a gallery keeps, in the
// background, and lets the gallery cut over when everybody is covered; whoever
// has no crop needs a new photo first. The package also seals and opens the
// crops, and lets a gallery keep its encoder when the server's default encoder
// changes.
package move

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/likeness-id/likeness/internal/seal"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
)

const (
	// maxInterval is how often the mover looks for work that nobody woke it
	// for: the last subject that was not covered may have been erased.
	maxInterval = time.Minute
	// restRatio is how many times as long as a pass the mover rests after it,
	// for at most maxInterval: in a large gallery that waits for photos, each
	// new photo wakes it.
	restRatio = 4
	// batchSize is how many samples are read at a time.
	batchSize = 100
	// slotRetry is how long the mover waits before it asks for a slot again,
	// where the requests have filled the queue.
	slotRetry = 200 * time.Millisecond
	// logInterval is how often the log says how far a move is.
	logInterval = 10 * time.Second
)

// Pipeline encodes crops; [embed.Pipeline] is one.
type Pipeline interface {
	Prepare(ctx context.Context, encoders ...string) error
	EmbedCrop(ctx context.Context, crop []byte, encoder string) (face.Embedding, error)
	// Encoder is the model that galleries are searched with unless they name
	// another one.
	Encoder() embed.Manifest
}

// Options of a [Mover]. Store and Pipeline are required. [DefaultOptions] has
// the defaults of the rest.
type Options struct {
	Store    store.Store
	Pipeline Pipeline
	// Models are the models that the server knows. Galleries can be moved to
	// the encoders among them.
	Models []embed.Model
	// Crops opens the crops that galleries keep. The zero value opens none.
	Crops Crops
	// OperatingPoint is that of requests that name none: one of
	// [match.PointNames]. Galleries can be moved to an encoder whose
	// calibration supports it. Empty: that of [DefaultOptions].
	OperatingPoint string

	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // takes the metrics; nil: nobody sees them
}

// DefaultOptions are the options of a server that is told nothing else.
func DefaultOptions() Options {
	return Options{OperatingPoint: identity.DefaultOptions().OperatingPoint}
}

// withDefaults fills in what is left out, and says which field is wrong.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Store == nil {
		errs = append(errs, errors.New("field Options.Store is missing"))
	}
	if o.Pipeline == nil {
		errs = append(errs, errors.New("field Options.Pipeline is missing"))
	}
	if o.OperatingPoint == "" {
		o.OperatingPoint = DefaultOptions().OperatingPoint
	}
	if _, err := match.NewPolicy(nil).Point(o.OperatingPoint); errors.Is(err, face.Invalid) {
		errs = append(errs, fmt.Errorf("Options.OperatingPoint: %w", err))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	return o, errors.Join(errs...)
}

// Mover makes templates from the crops of galleries that are on their way to
// another encoder, one at a time, so that it never takes more than one slot
// from the requests, and lets a gallery cut over when everybody is covered.
// What it has done is in the store, so it goes on after a restart where it
// was, and two servers do each other no harm. It is safe for concurrent use.
type Mover struct {
	o        Options
	encoders identity.Encoders
	wake     chan struct{}

	pending    *prometheus.GaugeVec
	reembedded prometheus.Counter

	prepared map[string]bool // encoders that can be used; belongs to Run

	mu       sync.Mutex
	known    map[target]*progress
	notReady error // why some gallery cannot be served here
}

// target is a gallery on its way to an encoder.
type target struct{ tenant, gallery, model string }

func (t target) label() string { return galleryLabel(t.tenant, t.gallery) }

// progress is what the mover knows of a gallery's move, beside what the store
// knows.
type progress struct {
	perSecond float64 // crops encoded; 0: not known
	// Crops that cannot be opened or encoded, and the subjects, sorted, whom
	// that leaves without a template.
	unusableCrops int
	uncovered     []string

	failed  map[string]string // unusable crops, by sample: the subject
	doubted map[string]bool   // samples that ended an earlier pass, by the fault of their crop or of the machine
}

// New makes a mover and registers its metrics. The error says which option is
// wrong.
func New(o Options) (*Mover, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Mover{
		o: o, encoders: identity.NewEncoders(o.Pipeline.Encoder(), o.Models), wake: make(chan struct{}, 1),
		prepared: map[string]bool{}, known: map[target]*progress{},
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "likeness_model_migration_pending",
			Help: "Crops that are still to be encoded, by the gallery that is moved to another encoder.",
		}, []string{"gallery"}),
		reembedded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "likeness_model_migration_reembedded_total",
			Help: "Templates made of crops.",
		}),
	}
	return m, errors.Join(o.Registerer.Register(m.pending), o.Registerer.Register(m.reembedded))
}

// Wake has Run look for work. It does not wait.
func (m *Mover) Wake() {
	select {
	case m.wake <- struct{}{}:
	default: // it is about to look anyway
	}
}

// progressOf is what is known of a gallery's move.
func (m *Mover) progressOf(tenant, gallery, modelID string) progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p, ok := m.known[target{tenant, gallery, modelID}]; ok {
		return progress{perSecond: p.perSecond, unusableCrops: p.unusableCrops, uncovered: p.uncovered}
	}
	return progress{}
}

// Ready says whether this server can serve every gallery, as far as the last
// pass of Run knows: another server may have moved one to an encoder that is
// not here. Unavailable: it cannot.
func (m *Mover) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.notReady
}

// update changes what Ready and the migrations say.
func (m *Mover) update(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// checkServed checks that a gallery can be searched here.
func (m *Mover) checkServed(ctx context.Context, tenant string, g face.Gallery) error {
	if g.ModelID == "" || m.prepared[g.ModelID] {
		return nil
	}
	err := m.o.Pipeline.Prepare(ctx, g.ModelID)
	switch {
	case err == nil:
		m.prepared[g.ModelID] = true
		return nil
	case ctx.Err() != nil, errors.Is(err, face.Overloaded):
		return nil //nolint:nilerr // It says nothing about the encoder.
	}
	return &face.Error{
		Kind: face.Unavailable, Op: "move.Ready", Err: err,
		Detail: fmt.Sprintf("the gallery %s needs the encoder %s, which this server cannot load", galleryLabel(tenant, g.ID), g.ModelID),
	}
}

// Run looks for work at once, then when it is woken and now and then, until ctx
// ends. It is called once.
func (m *Mover) Run(ctx context.Context) {
	tick := time.NewTicker(maxInterval)
	defer tick.Stop()
	if err := m.eachGallery(ctx, func(tenant string, g face.Gallery) error { return m.warnOfLeftBehind(ctx, tenant, g) }); err != nil && ctx.Err() == nil {
		m.o.Logger.Error("look for people who were enrolled with other encoders", "error", err)
	}
	for {
		start := time.Now()
		err := m.pass(ctx)
		pause := min(restRatio*time.Since(start), maxInterval)
		if err != nil && ctx.Err() == nil {
			m.o.Logger.Error("move galleries to another encoder; trying again", "error", err)
			pause = maxInterval // what is wrong has time to pass
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

// warnOfLeftBehind logs people whom a change of --encoder left behind.
func (m *Mover) warnOfLeftBehind(ctx context.Context, tenant string, g face.Gallery) error {
	own := m.encoders.Default().ID
	if g.ModelID != "" || g.NextModelID != "" || g.Templates == 0 {
		return nil
	}
	c, err := m.o.Store.Coverage(ctx, tenant, g.ID, own)
	if errors.Is(err, face.NotFound) {
		return nil // erased meanwhile
	}
	if err == nil && c.Covered < c.Subjects {
		m.o.Logger.Warn("people were enrolled with another encoder than this server's and are not known: "+
			"start with that --encoder and run `likeness models migrate`, or run it now for those with crops",
			"gallery", galleryLabel(tenant, g.ID), "encoder", own, "subjects", c.Subjects, "covered", c.Covered)
	}
	return err
}

// pass works on every gallery that is being moved until there is nothing left
// to do, and finds out whether all galleries can be served.
func (m *Mover) pass(ctx context.Context) error {
	moving := map[target]bool{}
	var notReady error
	var errs []error
	err := m.eachGallery(ctx, func(tenant string, g face.Gallery) error {
		if err := m.checkServed(ctx, tenant, g); err != nil && notReady == nil {
			notReady = err
		}
		if g.NextModelID == "" {
			return nil
		}
		t := target{tenant, g.ID, g.NextModelID}
		arrived, err := m.moveGallery(ctx, t)
		moving[t] = !arrived
		if err != nil && !errors.Is(err, face.NotFound) {
			// What is wrong with this gallery does not concern the others.
			errs = append(errs, fmt.Errorf("gallery %s: %w", t.label(), err))
		}
		return ctx.Err()
	})
	if err == nil {
		m.dropFinished(moving)
		m.update(func() { m.notReady = notReady })
	}
	return errors.Join(append(errs, err, notReady)...)
}

// dropFinished drops what is known of galleries that are no longer being moved.
func (m *Mover) dropFinished(moving map[target]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for t := range m.known {
		if !moving[t] {
			delete(m.known, t)
			m.pending.DeleteLabelValues(t.label())
		}
	}
}

// moveGallery makes the templates that a gallery lacks, and lets it cut over
// when that covers everybody.
func (m *Mover) moveGallery(ctx context.Context, t target) (arrived bool, err error) {
	m.mu.Lock()
	p, ok := m.known[t]
	if !ok {
		p = &progress{failed: map[string]string{}, doubted: map[string]bool{}}
		m.known[t] = p
	}
	m.mu.Unlock()
	var c store.Coverage
	for before := -1; ; before = c.Pending {
		worked, err := m.reembedAll(ctx, t, p)
		if err != nil {
			return false, err
		}
		if c, err = m.o.Store.Coverage(ctx, t.tenant, t.gallery, t.model); err != nil {
			return false, err
		}
		// Again for those who were enrolled meanwhile, unless the work had no effect.
		if !worked || before >= 0 && c.Pending >= before {
			break
		}
	}
	if c.Covered < c.Subjects { // CutOver would find out too, but writers would wait for it
		return false, m.findUncovered(ctx, t, p)
	}
	switch _, err := m.o.Store.CutOver(ctx, t.tenant, t.gallery, t.model); {
	case err == nil:
		m.o.Logger.Info("the gallery is searched with another encoder from now on", "gallery", t.label(), "encoder", t.model)
		return true, nil
	case errors.Is(err, face.Conflict): // somebody was enrolled meanwhile, which woke the mover
		return false, nil
	default:
		return false, err
	}
}

// reembedAll goes once through the samples that are pending. It reports
// whether anything was done, and so whether more may have come meanwhile.
func (m *Mover) reembedAll(ctx context.Context, t target, p *progress) (worked bool, err error) {
	name := t.label()
	gauge := m.pending.WithLabelValues(name)
	gauge.Set(0)
	start, logged, done, pending, failed := time.Now(), time.Now(), 0, 0, map[string]string{}
	for after := ""; ; {
		list, err := m.o.Store.PendingSamples(ctx, t.tenant, t.gallery, t.model, after, batchSize)
		if err != nil {
			return false, err
		}
		if after == "" && len(list) > 0 {
			c, err := m.o.Store.Coverage(ctx, t.tenant, t.gallery, t.model)
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
			usable, err := m.reembed(ctx, t, s, p.doubted)
			if err != nil {
				return false, err
			}
			if !usable {
				// In p.failed as well, in case this pass does not come to its end.
				p.failed[s.ID], failed[s.ID] = s.SubjectID, s.SubjectID
			}
			done++
			gauge.Dec()
			if time.Since(logged) > logInterval {
				logged = time.Now()
				m.o.Logger.Info("moving a gallery to another encoder", "gallery", name, "encoder", t.model, "done", done, "pending", max(pending-done, 0))
			}
		}
		if done > 0 {
			m.update(func() { p.perSecond = float64(done) / time.Since(start).Seconds() })
		}
		if len(list) < batchSize {
			break
		}
		// The move may have been canceled.
		if g, err := m.o.Store.Gallery(ctx, t.tenant, t.gallery); err != nil || g.NextModelID != t.model {
			return false, err
		}
	}
	m.update(func() { p.failed, p.unusableCrops = failed, len(failed) })
	if done > 0 {
		m.o.Logger.Info("made templates for another encoder", "gallery", name, "encoder", t.model, "samples", done, "unusable", len(failed),
			"seconds", time.Since(start).Seconds())
	}
	return done > 0, nil
}

// reembed makes the template of one sample. A crop of which no template can be
// made is not usable, now or later. An Internal error may be a lack of memory:
// it ends the pass, and if it comes again, the crop is not usable.
func (m *Mover) reembed(ctx context.Context, t target, s store.Sample, doubted map[string]bool) (usable bool, err error) {
	s, err = m.o.Store.Sample(ctx, t.tenant, t.gallery, s.ID)
	if errors.Is(err, face.NotFound) {
		return true, nil // erased meanwhile
	}
	if err != nil {
		return false, err
	}
	crop, err := m.o.Crops.openCrop(t.tenant, t.gallery, s)
	var e face.Embedding
	if err == nil {
		e, err = m.encode(ctx, crop, t.model)
	}
	switch kind := face.KindOf(err); {
	case err == nil:
	case errors.Is(err, seal.ErrKey), errors.Is(err, seal.ErrDamaged), kind == face.InvalidImage, kind == face.Internal && doubted[s.ID]:
		m.o.Logger.Warn("a crop is of no use for another encoder", "gallery", t.label(), "encoder", t.model,
			"subject_id", s.SubjectID, "sample_id", s.ID, "error", err)
		return false, nil
	default:
		if kind == face.Internal {
			doubted[s.ID] = true
		}
		return false, fmt.Errorf("sample %s: %w", s.ID, err)
	}
	delete(doubted, s.ID)
	made, err := m.o.Store.AddToSample(ctx, t.tenant, t.gallery, face.Template{
		ID: face.SampleTemplateID(s.ID, t.model), SubjectID: s.SubjectID, SampleID: s.ID, ModelID: t.model,
		Embedding: e, Quality: s.Quality, CreatedAt: s.CreatedAt,
	})
	switch {
	case errors.Is(err, face.NotFound):
		return true, nil // erased meanwhile
	case errors.Is(err, face.Conflict), err == nil && made.SampleID != s.ID:
		// Another server was faster, and the sample is pending no longer; or the
		// template_id is taken by another sample, and this one can never have it.
		m.o.Logger.Warn("the template_id of a crop is taken", "gallery", t.label(), "encoder", t.model,
			"subject_id", s.SubjectID, "sample_id", s.ID, "template_id", face.SampleTemplateID(s.ID, t.model))
		return false, nil
	case err == nil:
		m.reembedded.Inc()
		return true, nil
	}
	return false, err
}

// encode encodes a crop. Where requests have filled the queue for a slot, it
// waits and tries again: requests come first.
func (m *Mover) encode(ctx context.Context, crop []byte, model string) (face.Embedding, error) {
	for {
		e, err := m.o.Pipeline.EmbedCrop(ctx, crop, model)
		if !errors.Is(err, face.Overloaded) {
			return e, err
		}
		select {
		case <-ctx.Done():
			return nil, face.Wrap(face.Canceled, "move.encode", ctx.Err())
		case <-time.After(slotRetry):
		}
	}
}

// findUncovered finds the subjects whom unusable crops leave without a template.
func (m *Mover) findUncovered(ctx context.Context, t target, p *progress) error {
	subjects := map[string]bool{}
	for _, subject := range p.failed {
		subjects[subject] = true
	}
	var uncovered []string
	for subject := range subjects {
		templates, err := m.o.Store.Templates(ctx, t.tenant, t.gallery, subject, t.model)
		switch {
		case errors.Is(err, face.NotFound):
		case err != nil:
			return err
		case len(templates) == 0:
			uncovered = append(uncovered, subject)
		}
	}
	slices.Sort(uncovered)
	m.update(func() { p.uncovered = uncovered })
	return nil
}
