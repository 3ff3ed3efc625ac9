package main

import (
	"fmt"

	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

// addAllComparisons adds what the comparisons of all photos show, and reports
// whether some of it is rough.
func (s *reportSheet) addAllComparisons(a *measure.AllComparisonsReport, strangers string) (rough bool) {
	if a == nil {
		return false
	}
	s.startBlock()
	s.addRow("people\t%d, of whom %d have several usable photos", a.People, a.Several)
	s.addRow("mated pairs compared\t%s", a.Mated)
	s.addRow("impostor pairs compared\t%d", a.Impostor)
	s.addRow("best-threshold accuracy, people weighing the same\t%s [%s] at %.4f", formatPercent(a.Accuracy.Value), formatInterval(a.Accuracy.Interval), a.AccuracyThreshold)
	s.startTable("THRESHOLD OF\tTHRESHOLD\tFALSE MATCHES\tTIMES THE PROMISED\t95 %% INTERVAL\tFNMR, EVERY PERSON THE SAME\t95 %% INTERVAL\tFNMR OF ALL PAIRS\tNON-MATCHES\tFNMR, FAILURES AS NON-MATCHES")
	for _, at := range a.At {
		star := ""
		if at.FMR.Count < match.Rule30 {
			star, rough = "*", true
		}
		pairs := at.FNMR.Comparisons
		s.addRow("%s%s\t%.5f\t%s\t%s\t%s\t%s\t[%s]\t%s\t%s\t%s", at.Name, star, at.Threshold, at.FMR,
			formatTimes(at.FMR.Value()/at.Target), formatTimesInterval(at.FMRInterval.Low/at.Target, at.FMRInterval.High/at.Target),
			formatPercent(at.FNMR.Value), formatInterval(at.FNMR.Interval), formatPercent(pairs.Value()), pairs, formatPercent(at.WithFailures))
	}
	if a.Strangers > 0 {
		s.startTable("BESIDE %d PHOTOS OF %s\tTHRESHOLD\tFALSE MATCHES\tTIMES THE PROMISED\t95 %% INTERVAL", a.Strangers, strangers)
		for _, at := range a.At {
			s.addRow("%s\t%.5f\t%s\t%s\t%s", at.Name, at.Threshold, at.Strangers, formatTimes(at.Strangers.Value()/at.Target),
				formatTimesInterval(at.StrangersInterval.Low/at.Target, at.StrangersInterval.High/at.Target))
		}
	}
	s.addHighest(a.Highest)
	return rough
}

// addGroupComparisons adds the false match rates within groups, at the operating
// points that the comparisons are enough for.
func (s *reportSheet) addGroupComparisons(g *measure.GroupComparisons) {
	if g == nil {
		return
	}
	s.startTable("GROUP\tPHOTOS\tFAILURES TO ACQUIRE")
	for _, group := range g.Groups {
		s.addRow("%s\t%d\t%s", group.Group, group.Photos, formatPercent(group.FTA.Value()))
	}
	for i, at := range g.Groups[0].At {
		if at.Alike.Total+at.Others.Total < match.NeededComparisons(at.FMR) {
			continue // too few strangers to say anything about so strict a point
		}
		s.startTable("AT %s (%.5f)\tALIKE: TIMES THE PROMISED\t95 %% INTERVAL\tFALSE MATCHES\tOTHERS: TIMES THE PROMISED\t95 %% INTERVAL\tFALSE MATCHES\tFNMR\tNON-MATCHES", at.Name, at.Threshold)
		for _, group := range g.Groups {
			at := group.At[i]
			fnmr := "-"
			if at.FNMR.People > 0 {
				fnmr = formatPercent(at.FNMR.Value)
			}
			s.addRow("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", group.Group,
				formatTimesRate(at.Alike, at.FMR), formatTimesInterval(at.AlikeInterval.Low/at.FMR, at.AlikeInterval.High/at.FMR), at.Alike,
				formatTimesRate(at.Others, at.FMR), formatTimesInterval(at.OthersInterval.Low/at.FMR, at.OthersInterval.High/at.FMR), at.Others,
				fnmr, at.FNMR.Comparisons)
		}
	}
	s.startBlock()
	s.addRow("alike: two people of the same group (with utkface: the same sex, group and age band); others: two people of the row who are not alike")
	s.addHighest(g.Highest)
}

// addHighest adds the highest scores of strangers, because there may be mates
// among them.
func (s *reportSheet) addHighest(pairs []measure.ScoredPair) {
	s.startTable("HIGHEST SCORES OF STRANGERS: LOOK AT THEM\tPROBE\tREFERENCE")
	for _, p := range pairs {
		s.addRow("%.4f\t%s\t%s", p.Score, p.Probe, p.Reference)
	}
}

// formatTimes is a multiple, with about two significant digits.
func formatTimes(v float64) string {
	if v >= 10 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

func formatTimesRate(r measure.Rate, promised float64) string {
	if r.Total == 0 {
		return "-"
	}
	return formatTimes(r.Value() / promised)
}

func formatTimesInterval(low, high float64) string {
	return "[" + formatTimes(low) + ", " + formatTimes(high) + "]"
}
