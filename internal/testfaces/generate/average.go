package main

import (
	"image"
	"math"
	"runtime"
	"sync"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// The frame that faces are averaged in: the eyes eyesApart pixels from each
// other, half way across and eyesDown from the top.
const (
	frameWidth  = 320
	frameHeight = 400
	eyesApart   = 80
	eyesDown    = 185
)

// picture is a frame in linear light, three numbers a pixel, 0..1 each.
type picture []float32

func newPicture() picture { return make(picture, 3*frameWidth*frameHeight) }

// toLinear is sRGB's curve.
func toLinear(v float64) float64 {
	if v <= 0.04045 {
		return v / 12.92
	}
	return math.Pow((v+0.055)/1.055, 2.4)
}

func fromLinear(v float64) float64 {
	v = min(max(v, 0), 1)
	if v <= 0.0031308 {
		return v * 12.92
	}
	return 1.055*math.Pow(v, 1/2.4) - 0.055
}

func linearTable() (t [256]float32) {
	for i := range t {
		t[i] = float32(toLinear(float64(i) / 255))
	}
	return t
}

// flow says for each pixel of the frame where it comes from: x and y.
type flow []float32

// spline is the thin-plate spline that brings points to others: the smoothest
// map that does it exactly.
type spline struct {
	at     [][2]float64
	wx, wy []float64 // of the points, then 1, x, y
}

func kernel(d2 float64) float64 {
	if d2 < 1e-9 {
		return 0
	}
	return d2 * math.Log(d2)
}

func newSpline(from, to [][2]float64) spline {
	n := len(from)
	size := n + 3
	m := make([][]float64, size) // with two right sides
	for i := range m {
		m[i] = make([]float64, size+2)
	}
	for i := range n {
		for j := range n {
			dx, dy := from[i][0]-from[j][0], from[i][1]-from[j][1]
			m[i][j] = kernel(dx*dx + dy*dy)
		}
		m[i][n], m[i][n+1], m[i][n+2] = 1, from[i][0], from[i][1]
		m[n][i], m[n+1][i], m[n+2][i] = 1, from[i][0], from[i][1]
		m[i][size], m[i][size+1] = to[i][0], to[i][1]
	}
	for c := range size { // Gauss, with pivots
		p := c
		for r := c + 1; r < size; r++ {
			if math.Abs(m[r][c]) > math.Abs(m[p][c]) {
				p = r
			}
		}
		m[c], m[p] = m[p], m[c]
		for r := range size {
			if r == c || m[r][c] == 0 {
				continue
			}
			k := m[r][c] / m[c][c]
			for j := c; j < size+2; j++ {
				m[r][j] -= k * m[c][j]
			}
		}
	}
	s := spline{at: from}
	for i := range size {
		s.wx = append(s.wx, m[i][size]/m[i][i])
		s.wy = append(s.wy, m[i][size+1]/m[i][i])
	}
	return s
}

func (s spline) apply(x, y float64) (float64, float64) {
	n := len(s.at)
	ox := s.wx[n] + s.wx[n+1]*x + s.wx[n+2]*y
	oy := s.wy[n] + s.wy[n+1]*x + s.wy[n+2]*y
	for i, p := range s.at {
		k := kernel((x-p[0])*(x-p[0]) + (y-p[1])*(y-p[1]))
		ox, oy = ox+s.wx[i]*k, oy+s.wy[i]*k
	}
	return ox, oy
}

// flow tabulates the spline: every eighth pixel, and straight between.
func (s spline) flow() flow {
	const step = 8
	const columns, rows = frameWidth/step + 1, frameHeight/step + 1
	var grid [rows][columns][2]float64
	for r := range rows {
		for c := range columns {
			grid[r][c][0], grid[r][c][1] = s.apply(float64(c*step), float64(r*step))
		}
	}
	f := make(flow, 0, 2*frameWidth*frameHeight)
	for y := range frameHeight {
		for x := range frameWidth {
			tx, ty := float64(x%step)/step, float64(y%step)/step
			a, b := grid[y/step][x/step], grid[y/step][x/step+1]
			c, d := grid[y/step+1][x/step], grid[y/step+1][x/step+1]
			for k := range 2 {
				f = append(f, float32((a[k]*(1-tx)+b[k]*tx)*(1-ty)+(c[k]*(1-tx)+d[k]*tx)*ty))
			}
		}
	}
	return f
}

// shape is where the landmarks of a face lie in the frame.
type shape [5]face.Point

// anchors are points of the frame far from the landmarks, which follow the
// face as a whole.
func anchors() [][2]float64 {
	const w, h = frameWidth, frameHeight
	return [][2]float64{
		{0, 0},
		{w / 2, 0},
		{w, 0},
		{0, eyesDown},
		{w, eyesDown},
		{0, h},
		{w / 2, h},
		{w, h},
		{0.22 * w, 0.2 * h},
		{0.78 * w, 0.2 * h},
		{0.25 * w, 0.78 * h},
		{0.75 * w, 0.78 * h},
		{0.5 * w, 0.85 * h},
	}
}

// toFace is the spline from the frame, with the landmarks at s, to a photo
// with the landmarks at the points given.
func (s shape) toFace(points [5]face.Point) (spline, error) {
	whole, err := imaging.FitSimilarity(s, points)
	if err != nil {
		return spline{}, err
	}
	from := anchors()
	to := make([][2]float64, len(from))
	for i, p := range from {
		to[i][0], to[i][1] = whole.Apply(p[0], p[1])
	}
	for i, p := range s {
		from = append(from, [2]float64{float64(p.X), float64(p.Y)})
		to = append(to, [2]float64{float64(points[i].X), float64(points[i].Y)})
	}
	return newSpline(from, to), nil
}

// meanShape is the mean of faces brought onto each other as a whole.
func meanShape(faces []source) (shape, error) {
	mean := shape{
		{X: frameWidth/2 - eyesApart/2, Y: eyesDown},
		{X: frameWidth/2 + eyesApart/2, Y: eyesDown},
		{X: frameWidth / 2, Y: eyesDown + 47},
		{X: frameWidth/2 - 33, Y: eyesDown + 87},
		{X: frameWidth/2 + 33, Y: eyesDown + 87},
	}
	start := mean
	for range 3 {
		var sum shape
		for _, s := range faces {
			a, err := imaging.FitSimilarity(s.Points, mean)
			if err != nil {
				return mean, err
			}
			for i, p := range s.Points {
				x, y := a.Apply(float64(p.X), float64(p.Y))
				sum[i].X += float32(x) / float32(len(faces))
				sum[i].Y += float32(y) / float32(len(faces))
			}
		}
		mean = sum
	}
	// The size and place stay those of the frame.
	a, err := imaging.FitSimilarity(mean, start)
	if err != nil {
		return mean, err
	}
	for i, p := range mean {
		x, y := a.Apply(float64(p.X), float64(p.Y))
		mean[i] = face.Point{X: float32(x), Y: float32(y)}
	}
	return mean, nil
}

// readFrame fills a frame with what the flow finds in a photo; seen is 0 where that
// lies outside it.
func readFrame(img *image.RGBA, f flow, table *[256]float32) (p picture, seen []float32) {
	p, seen = newPicture(), make([]float32, frameWidth*frameHeight)
	w, h := img.Rect.Dx(), img.Rect.Dy()
	for i := range seen {
		x, y := f[2*i]-0.5, f[2*i+1]-0.5
		if x < 0 || y < 0 || x >= float32(w-1) || y >= float32(h-1) {
			x, y = min(max(x, 0), float32(w)-1.01), min(max(y, 0), float32(h)-1.01)
		} else {
			seen[i] = 1
		}
		left, top := int(x), int(y)
		fx, fy := x-float32(left), y-float32(top)
		q := img.Pix[top*img.Stride+4*left:]
		r := img.Pix[(top+1)*img.Stride+4*left:]
		for k := range 3 {
			p[3*i+k] = (table[q[k]]*(1-fx)+table[q[k+4]]*fx)*(1-fy) + (table[r[k]]*(1-fx)+table[r[k+4]]*fx)*fy
		}
	}
	return p, seen
}

// average is the mean of faces, each brought to the shape given, and then onto
// the mean of all by so many rounds. Every face has the same weight.
func average(set photos.Set, faces []source, to shape, rounds int) (picture, error) {
	images, flows := make([]*image.RGBA, len(faces)), make([]flow, len(faces))
	for i, f := range faces {
		s, err := to.toFace(f.Points)
		if err != nil {
			return nil, err
		}
		flows[i] = s.flow()
		if images[i], err = pixels(set, f.Name); err != nil {
			return nil, err
		}
	}
	mean, now := meanPicture(images, flows)
	for range rounds {
		still := mean.texture()
		shifts := make([]shift, len(faces))
		forEach(len(faces), func(i int) { shifts[i] = register(still, now[i].texture()) })
		// The mean of all shifts is removed, so that the shape stays the mean.
		for j := range halfWidth * halfHeight {
			var x, y float32
			for _, s := range shifts {
				x, y = x+s.x[j]/float32(len(shifts)), y+s.y[j]/float32(len(shifts))
			}
			for _, s := range shifts {
				s.x[j], s.y[j] = s.x[j]-x, s.y[j]-y
			}
		}
		for i, s := range shifts {
			flows[i] = flows[i].after(s)
		}
		mean, now = meanPicture(images, flows)
	}
	return mean, nil
}

// meanPicture reads all photos and takes the mean.
func meanPicture(images []*image.RGBA, flows []flow) (mean picture, all []picture) {
	table := linearTable()
	all = make([]picture, len(images))
	seen := make([][]float32, len(images))
	forEach(len(images), func(i int) {
		all[i], seen[i] = readFrame(images[i], flows[i], &table)
	})
	mean = newPicture()
	for j := range frameWidth * frameHeight {
		var w, r, g, b float32
		for i, p := range all { // in order, so that the sum is the same each time
			k := seen[i][j] + 1e-3
			w, r, g, b = w+k, r+k*p[3*j], g+k*p[3*j+1], b+k*p[3*j+2]
		}
		mean[3*j], mean[3*j+1], mean[3*j+2] = r/w, g/w, b/w
	}
	return mean, all
}

// forEach calls f for 0..n-1 on all processors.
func forEach(n int, f func(i int)) {
	next := make(chan int)
	var work sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	work.Wait()
}
