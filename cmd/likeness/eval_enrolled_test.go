package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// TestReportEnrolled: the report has a row for each way of using several photos,
// at each operating point.
func TestReportEnrolled(t *testing.T) {
	t.Parallel()
	d := evalData{photos: map[string]measure.Photo{}, people: map[string]string{}}
	for i := range 6 {
		for n := range 3 {
			name := fmt.Sprintf("p%d/%d.jpg", i, n)
			e := make(face.Embedding, 8)
			e[i], e[7] = 0.8, 0.6
			if n == 0 {
				e[6], e[7] = 0.6, 0
			}
			d.people[name], d.photos[name] = fmt.Sprint("p", i), measure.Photo{Embeddings: []face.Embedding{e}}
		}
	}
	encoder := embed.Manifest{Calibration: &face.Calibration{Points: []face.OperatingPoint{
		{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.5}, {Name: "fmr_1e-3", FMR: 1e-3, Threshold: 0.9},
	}}}
	r := &report{}
	if err := (enrolledFlags{}).measureEnrolled(t.Context(), r, d, encoder, 1); err != nil || r.Enrolled != nil {
		t.Fatal(r.Enrolled, err)
	}
	if err := (enrolledFlags{[]int{1, 2}}).measureEnrolled(t.Context(), r, d, encoder, 1); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for want, n := range map[string]int{"fmr_1e-2 (0.5000), ENROLLED": 1, "fmr_1e-3 (0.9000), ENROLLED": 1, "the mean": 2, "the best": 2, "one of them": 2, "/900": 8} {
		if strings.Count(out.String(), want) != n {
			t.Errorf("the report does not say %q %d times:\n%s", want, n, out.String())
		}
	}
	var usage usageError
	if err := (enrolledFlags{[]int{3}}).measureEnrolled(t.Context(), r, d, encoder, 1); !errors.As(err, &usage) || !strings.Contains(err.Error(), "more than 3 usable photos") {
		t.Errorf("more photos than anybody has: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (enrolledFlags{[]int{1}}).measureEnrolled(ctx, r, d, encoder, 1); !errors.Is(err, context.Canceled) || errors.As(err, &usage) {
		t.Errorf("stopped: %v", err)
	}
}
