package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// enrolledFlags ask what several enrolled photos of a person bring.
type enrolledFlags struct {
	Enrolled []int `placeholder:"N,..." help:"Measure verification of people with so many enrolled photos (such as 1,2,3,5), at the operating points of the encoder: against the mean of the photos, as the server does, against the best of them, and against one."`
}

// measureEnrolled fills in the part of the report that the flag asks for.
func (f enrolledFlags) measureEnrolled(ctx context.Context, r *report, d evalData, encoder embed.Manifest, workers int) (err error) {
	if len(f.Enrolled) == 0 {
		return nil
	}
	r.Enrolled, err = measure.MeasureEnrolled(ctx, d.people, d.photos, f.Enrolled, encoder.Calibration, workers, measure.DefaultOptions())
	if errors.Is(err, face.Invalid) {
		return usageError{fmt.Errorf("--enrolled: %s", explain(err))}
	}
	return err
}

// addEnrolled adds what several enrolled photos bring.
func (s *reportSheet) addEnrolled(list []measure.EnrolledRates) {
	if len(list) == 0 {
		return
	}
	for i, p := range list[0].Points {
		s.startTable("%s (%.4f), ENROLLED\tPEOPLE\tCOMPARED WITH\tFMR\tFALSE MATCHES\t95 %% INTERVAL\tFNMR\tNON-MATCHES\t95 %% INTERVAL", p.Name, p.Threshold)
		for _, e := range list {
			number, people := fmt.Sprint(e.Enrolled), fmt.Sprint(e.People)
			for _, w := range e.Points[i].Ways {
				with := w.Way.String()
				if e.Enrolled == 1 {
					with = "it"
				}
				s.addRow("%s\t%s\t%s\t%.2e\t%s\t[%.2e, %.2e]\t%s\t%s\t[%s]", number, people, with,
					w.FMR.Value(), w.FMR, w.FMRInterval.Low, w.FMRInterval.High, formatPercent(w.FNMR.Value()), w.FNMR, formatInterval(w.FNMRInterval))
				number, people = "", ""
			}
		}
	}
}
