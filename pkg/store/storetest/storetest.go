// Package storetest is the conformance suite of stores: it holds in tests what
// package store says in words. Every store runs the whole suite.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// Place makes an empty place for a store and returns what opens it: a store
// that is ready, or the end of the test. After Close the same place may be
// opened again, and everything is there.
type Place func(tb testing.TB) (open func() store.Store)

// Run tests that a store behaves as pkg/store says. Each test has a place of
// its own, and all run in parallel.
func Run(t *testing.T, place Place) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*testing.T, Place)
	}{
		{"Galleries", galleries},
		{"DefaultGallery", defaultGallery},
		{"Subjects", subjects},
		{"SubjectLimits", subjectLimits},
		{"Enrol", enrol},
		{"EnrolAgain", enrolAgain},
		{"EnrolRefusals", enrolRefusals},
		{"Dimension", dimension},
		{"TemplatesOldestFirst", templatesOldestFirst},
		{"SearchIsExact", searchIsExact},
		{"TemplatesComeAndGo", templatesComeAndGo},
		{"TemplatesComeAndGoTogether", templatesComeAndGoTogether},
		{"SearchTies", searchTies},
		{"SearchEdges", searchEdges},
		{"Comparisons", comparisons},
		{"DeleteTemplate", deleteTemplate},
		{"DeleteSubject", deleteSubject},
		{"DeleteGallery", deleteGallery},
		{"EraseWhileSearching", eraseWhileSearching},
		{"EraseGalleryWhileSearching", eraseGalleryWhileSearching},
		{"TemplateIDMovesWhileSearching", templateIDMovesWhileSearching},
		{"Isolation", isolation},
		{"ConcurrentWriters", concurrentWriters},
		{"ConcurrentSameID", concurrentSameID},
		{"Reopen", reopen},
		{"Purge", purge},
		{"SamplesShared", samplesShared},
		{"SampleOfAnother", sampleOfAnother},
		{"AddToSample", addToSample},
		{"AddToSampleWhileErasing", addToSampleWhileErasing},
		{"CropsKept", cropsKept},
		{"CropsErased", cropsErased},
		{"CropsPurged", cropsPurged},
		{"StoreImagesOff", storeImagesOff},
		{"PendingSamples", pendingSamples},
		{"Coverage", coverage},
		{"Uncovered", uncovered},
		{"GalleryModels", galleryModels},
		{"CutOver", cutOver},
		{"CutOverWhileEnrolling", cutOverWhileEnrolling},
		{"SamplesIsolation", samplesIsolation},
		{"Paging", paging},
		{"PagingWhileInserting", pagingWhileInserting},
		{"Cursors", cursors},
		{"SubjectFilters", subjectFilters},
		{"Import", importNew},
		{"ImportAgain", importAgain},
		{"ImportPoisoned", importPoisoned},
		{"ImportPoisonsAnother", importPoisonsAnother},
		{"ImportDuplicates", importDuplicates},
		{"ImportLimits", importLimits},
		{"ExportOrder", exportOrder},
		{"ExportAll", exportAll},
		{"BulkCrops", bulkCrops},
		{"BulkTenants", bulkTenants},
		{"CopyGallery", copyGallery},
		{"BulkConcurrent", bulkConcurrent},
		{"BulkReopen", bulkReopen},
		{"AuditRecords", auditRecords},
		{"AuditConcurrent", auditConcurrent},
		{"AuditRestore", auditRestore},
		{"Keys", keys},
		{"Idempotency", idempotency},
		{"CanceledBefore", canceledBefore},
		{"CanceledMeanwhile", canceledMeanwhile},
		{"ContextsEndAnywhere", contextsEndAnywhere},
		{"Closed", closed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, place)
		})
	}
}

const (
	tenant = "acme"
	model  = "encoder-a"
)

var by = store.Actor{KeyID: "key-1", RequestID: "request-1"}

// openReady opens a store that is closed after the test.
func openReady(t *testing.T, place Place) store.Store {
	t.Helper()
	s := place(t)()
	t.Cleanup(func() { noError(t, s.Close()) })
	return s
}

// noError fails the test, and may be called from any goroutine.
func noError(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Error(err)
	}
}

// must ends the test on an error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func wantKind(tb testing.TB, err error, kind face.Kind) {
	tb.Helper()
	if !errors.Is(err, kind) {
		tb.Errorf("error is %v, want %s", err, kind)
	}
	var e *face.Error
	if err != nil && !errors.As(err, &e) {
		tb.Errorf("error %v is not a face.Error", err)
	}
}

// randomEmbedding is a random vector of unit length.
func randomEmbedding(rng *rand.Rand, dim int) face.Embedding {
	e := make(face.Embedding, dim)
	for i := range e {
		e[i] = float32(rng.NormFloat64())
	}
	e, err := e.Normalise()
	if err != nil {
		panic(err) // all zeros, which never comes
	}
	return e
}

// axisEmbedding is the unit vector along one axis, slightly towards the next one: the
// higher the tilt, the lower its score against the axis itself.
func axisEmbedding(dim, at int, tilt float64) face.Embedding {
	e := make(face.Embedding, dim)
	e[at] = float32(math.Cos(tilt))
	e[(at+1)%dim] = float32(math.Sin(tilt))
	return e
}

func newRand(tb testing.TB) *rand.Rand {
	tb.Helper()
	return rand.New(rand.NewPCG(1, 2))
}

func addSubject(tb testing.TB, s store.Store, tenant, gallery, id string) {
	tb.Helper()
	_, err := s.CreateSubject(tb.Context(), tenant, gallery, face.Subject{ID: id, Name: "name of " + id})
	noError(tb, err)
}

func addTemplate(tb testing.TB, s store.Store, tenant, gallery, subject, model string, e face.Embedding) face.Template {
	tb.Helper()
	t, err := s.Enrol(tb.Context(), tenant, gallery, face.Template{
		ID: face.NewID(), SubjectID: subject, ModelID: model, Embedding: e, Quality: 0.5,
	})
	noError(tb, err)
	return t
}

// runTogether runs n goroutines and waits for them.
func runTogether(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// searchIDs lists the subjects that a search finds.
func searchIDs(tb testing.TB, s store.Store, tenant, gallery, model string, probe face.Embedding, k int) []string {
	tb.Helper()
	r, err := s.Search(tb.Context(), tenant, gallery, model, probe, k)
	noError(tb, err)
	var ids []string
	for _, c := range r.Candidates {
		ids = append(ids, c.SubjectID)
	}
	return ids
}

func numberedID(prefix string, i int) string { return fmt.Sprintf("%s-%04d", prefix, i) }

func canceledContext(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	cancel()
	return ctx
}
