// Package style paints one picture in the manner of others: neural style
// transfer by Gram matrices (Gatys, Ecker and Bethge, "A Neural Algorithm of
// Artistic Style", arXiv 1508.06576). Only the pixels of the picture G are
// optimised.
//
//	L(G)         = alpha L_content + beta L_style + tv L_tv
//	L_content[l] = 1/2 sum (a[l](C) - a[l](G))^2
//	Gram[l]_kk'  = sum_ij a[l]_ijk a[l]_ijk'
//	L_style[l]   = 1/(2 nH nW nC)^2 sum_kk' (Gram_S - Gram_G)^2
//	L_style      = sum_l lambda[l] L_style[l]
package style

import (
	"context"
	"image"
	"time"
)

// Task is one picture to make. Images are opaque.
type Task struct {
	Content *image.RGBA
	Styles  []*image.RGBA // 1 to MaxStyles
	// Masks, if there are any, say where in the content each style applies: one
	// mask for each style, white where it applies. They are scaled to the
	// content.
	Masks  []*image.Gray
	Params Params
	// Checkpoint is the state of an earlier run of the same task, from
	// [Report]; the run continues from there. The error is Invalid if it is of
	// another task.
	Checkpoint []byte
}

// MaxStyles is how many style images a task may have.
const MaxStyles = 4

// Loss has the parts of L(G), weighted as they are added.
type Loss struct {
	Total, Content, Style, TV float64
}

// Report is the progress of a run. There is one after every iteration.
type Report struct {
	Iteration, Iterations int // done, and in all
	Width, Height         int // of the picture at the present scale, pixels
	Loss                  Loss
	Shrunk                int           // times that a step was not finite and was made smaller
	ETA                   time.Duration // 0 while it is not known
	// Checkpoint makes the state to resume from, Preview the picture so far.
	// Call them only before the observer returns.
	Checkpoint func() ([]byte, error)
	Preview    func() *image.RGBA
}

// Transferrer makes pictures. [Engine] is the one there is.
type Transferrer interface {
	// Check says what is wrong with a task before anything is computed. The
	// error is Invalid and names the field.
	Check(t Task) error
	// Transfer makes the picture. When ctx ends, it returns within one
	// iteration, with Canceled or Deadline. An error of the observer ends it
	// too. The error is Invalid if Check refuses the task or the checkpoint is
	// of another task, and Internal ("diverged") if the loss was not finite
	// however small the step.
	Transfer(ctx context.Context, t Task, observe func(Report) error) (*image.RGBA, error)
}
