package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/likeness-id/likeness/pkg/style"
)

// lossLine shows the progress of a transfer: one line on a terminal, which
// changes, and elsewhere a line for every tenth.
type lossLine struct {
	out   io.Writer
	width int // of the terminal, 0 where there is none
	shown time.Time
	tenth int
	line  bool // a line is shown
}

func newLossLine(out io.Writer) *lossLine {
	l := &lossLine{out: out, tenth: -1}
	if f, ok := out.(*os.File); ok && isTerminal(out) {
		l.width = 80
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 { //nolint:gosec // a file's number is small
			l.width = width
		}
	}
	return l
}

// Show shows a report.
func (l *lossLine) Show(r style.Report) {
	last := r.Iteration == r.Iterations
	if l.width == 0 {
		// The first iteration shows that it works, every tenth how far it is.
		if tenth := r.Iteration * 10 / r.Iterations; tenth > l.tenth {
			l.tenth = tenth
			fmt.Fprintln(l.out, describeReport(r))
		}
		return
	}
	const often = 100 * time.Millisecond
	if now := time.Now(); last || now.Sub(l.shown) >= often {
		l.shown, l.line = now, true
		text := describeReport(r)
		fmt.Fprint(l.out, "\r\x1b[K"+text[:min(len(text), l.width-1)]) // a line that wraps cannot be removed
	}
}

// Close removes the line.
func (l *lossLine) Close() {
	if l.line {
		fmt.Fprint(l.out, "\r\x1b[K")
		l.line = false
	}
}

// describeReport is a report as text.
func describeReport(r style.Report) string {
	var b strings.Builder
	size := fmt.Sprint(r.Width)
	if r.Height > 1 {
		size += fmt.Sprintf("x%d", r.Height)
	}
	fmt.Fprintf(&b, "%d/%d at %s: loss %.4g = content %.3g + style %.3g + tv %.3g",
		r.Iteration, r.Iterations, size, r.Loss.Total, r.Loss.Content, r.Loss.Style, r.Loss.TV)
	if r.Shrunk > 0 {
		fmt.Fprintf(&b, ", %d steps shrunk", r.Shrunk)
	}
	if r.ETA > 0 && r.Iteration < r.Iterations {
		fmt.Fprintf(&b, ", %s left", r.ETA.Round(time.Second))
	}
	return b.String()
}
