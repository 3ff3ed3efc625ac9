package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows how far a long task is: a bar on a terminal; elsewhere, where a
// bar would fill a log, a line for every tenth. It is safe for concurrent use.
type progress struct {
	mu          sync.Mutex
	out         io.Writer
	what        string
	total, done int64
	bar         *progressbar.ProgressBar // nil where there is no terminal
}

// newProgress starts to show how much of total (of photos, or of bytes) is done.
func newProgress(out io.Writer, what string, total int64, bytes bool) *progress {
	p := &progress{out: out, what: what, total: total}
	if isTerminal(out) {
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(out),
			progressbar.OptionSetDescription(what),
			progressbar.OptionShowCount(),
			progressbar.OptionShowBytes(bytes),
			progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionClearOnFinish(),
		)
	}
	return p
}

// isTerminal reports whether a writer is a terminal that can show a bar.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// Add notes that n more are done.
func (p *progress) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.done
	p.done += n
	if p.bar != nil {
		p.show(p.bar.Add64(n))
		return
	}
	if p.total > 0 && before*10/p.total != p.done*10/p.total {
		fmt.Fprintf(p.out, "%s: %d of %d (%d %%)\n", p.what, p.done, p.total, p.done*100/p.total)
	}
}

// Set notes that n are done in all.
func (p *progress) Set(n int64) {
	p.mu.Lock()
	more := n - p.done
	p.mu.Unlock()
	p.Add(more)
}

// Print writes a line of results without tearing the bar.
func (p *progress) Print(w io.Writer, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.show(p.bar.Clear())
	}
	fmt.Fprintf(w, format+"\n", args...)
}

// Close removes the bar.
func (p *progress) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.show(p.bar.Clear())
	}
}

// show stops drawing the bar after an error, which is no reason to fail.
func (p *progress) show(err error) {
	if err != nil {
		p.bar = nil
	}
}
