package main

import (
	"fmt"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// formatPercent is a share, 0..1, in per cent.
func formatPercent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }

// formatRate is a rate in per cent, or a dash when nothing was counted.
func formatRate(r measure.Rate) string {
	if r.Total == 0 {
		return "-"
	}
	return formatPercent(r.Value())
}

// formatInterval is an interval of a share in per cent, without brackets.
func formatInterval(i face.Interval) string { return fmt.Sprintf("%.2f, %.2f", 100*i.Low, 100*i.High) }

// formatBytes is a number of bytes in MiB or GiB.
func formatBytes(n int64) string {
	if n >= 10<<30 {
		return fmt.Sprintf("%d GiB", n>>30)
	}
	return fmt.Sprintf("%d MiB", max(1, n>>20))
}
