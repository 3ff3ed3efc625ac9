package siamese

import (
	"math"
	"math/rand/v2"

	"github.com/likeness-id/likeness/pkg/face"
)

// painter paints shapes on a picture of red, green and blue planes, 0..255.
type painter struct {
	pix  []float32
	w, h int
}

// paint blends a colour into each pixel; share is how much of it a pixel gets,
// 0..1.
func (p painter) paint(colour func(x, y int) [3]float32, share func(x, y float64) float64) {
	area := p.w * p.h
	for y := range p.h {
		for x := range p.w {
			s := float32(share(float64(x), float64(y)))
			if s <= 0 {
				continue
			}
			shade := colour(x, y)
			for c := range 3 {
				i := c*area + y*p.w + x
				p.pix[i] += min(1, s) * (shade[c] - p.pix[i])
			}
		}
	}
}

// inside turns a distance into the shape, negative inside, into a share with an
// edge one pixel wide.
func inside(distance float64) float64 { return max(0, min(1, 0.5-distance)) }

// plain is one colour everywhere.
func plain(c [3]float32) func(int, int) [3]float32 {
	return func(int, int) [3]float32 { return c }
}

// cloth is a colour with folds, and sometimes stripes.
func cloth(base [3]float32, rng *rand.Rand) func(int, int) [3]float32 {
	ax, ay, phase := 0.15*rng.NormFloat64(), 0.15*rng.NormFloat64(), 6.3*rng.Float64()
	often, deep := 0.3+rng.Float64(), float32(0)
	if rng.IntN(4) == 0 {
		deep = 60 * rng.Float32()
	}
	return func(x, y int) [3]float32 {
		fold := float32(14 * math.Sin(ax*float64(x)+ay*float64(y)+phase))
		stripe := deep * float32(math.Sin(often*(float64(x)*ay+float64(y)*(0.3+ax))*4))
		return [3]float32{base[0] + fold + stripe, base[1] + fold + stripe, base[2] + fold - stripe}
	}
}

// anyColour is mostly one that cloth has: white, black, blue, else any.
func anyColour(rng *rand.Rand) [3]float32 {
	wobble := func(r, g, b float32) [3]float32 {
		d := 25 * float32(rng.NormFloat64())
		return [3]float32{r + d, g + d, b + d}
	}
	switch rng.IntN(5) {
	case 0:
		return wobble(225, 228, 230)
	case 1:
		return wobble(25, 25, 28)
	case 2:
		return wobble(120, 165, 205)
	}
	return [3]float32{255 * rng.Float32(), 255 * rng.Float32(), 255 * rng.Float32()}
}

// cover hides a part of the face as sunglasses, masks and hands do, and says
// whether it did.
func (v *viewer) cover(pix []float32, rng *rand.Rand) bool {
	p := painter{pix, v.input.Width, v.input.Height}
	f := faceGeometry(v.points)
	how := v.how
	done := false
	for _, kind := range []struct {
		chance float64
		paint  func(painter, geometry, *rand.Rand)
	}{{how.Sunglasses, paintSunglasses}, {how.Mask, paintMask}, {how.Hand, paintHand}, {how.CutOut, paintOver}} {
		if rng.Float64() < kind.chance {
			kind.paint(p, f, rng)
			done = true
		}
	}
	return done
}

// geometry is where the features of a face are.
type geometry struct {
	left, right, nose, mouth face.Point
	eyes                     float64 // the distance between them
}

func faceGeometry(p [5]face.Point) geometry {
	return geometry{
		left: p[0], right: p[1], nose: p[2],
		mouth: face.Point{X: (p[3].X + p[4].X) / 2, Y: (p[3].Y + p[4].Y) / 2},
		eyes:  math.Hypot(float64(p[1].X-p[0].X), float64(p[1].Y-p[0].Y)),
	}
}

func (g geometry) between() (x, y float64) {
	return float64(g.left.X+g.right.X) / 2, float64(g.left.Y+g.right.Y) / 2
}

// paintSunglasses paints two dark lenses, or one visor, with a bridge and arms.
func paintSunglasses(p painter, g geometry, rng *rand.Rand) {
	rx, ry := g.eyes*(0.36+0.2*rng.Float64()), g.eyes*(0.24+0.2*rng.Float64())
	power := 2 + 2.5*rng.Float64() // from an ellipse to nearly a rectangle
	mx, my := g.between()
	dx, dy := 0.05*g.eyes*rng.NormFloat64(), 0.06*g.eyes*rng.NormFloat64()+0.04*g.eyes
	dark := 70 * rng.Float64() * rng.Float64()
	shade := [3]float32{float32(dark + 12*rng.NormFloat64()), float32(dark), float32(dark + 12*rng.NormFloat64())}
	opacity := 0.8 + 0.2*rng.Float64()
	if rng.IntN(8) == 0 {
		opacity = 0.5 + 0.3*rng.Float64()
	}
	visor := rng.IntN(8) == 0
	fade := rng.IntN(3) == 0 // lenses that are lighter below
	p.paint(plain(shade), func(x, y float64) float64 {
		x, y = x-dx, y-dy
		lens := func(cx, cy, rx float64) float64 {
			r := math.Pow(math.Pow(math.Abs(x-cx)/rx, power)+math.Pow(math.Abs(y-cy)/ry, power), 1/power)
			return inside((r - 1) * ry)
		}
		if visor {
			return opacity * lens(mx, my, rx+g.eyes/2)
		}
		s := max(lens(float64(g.left.X), float64(g.left.Y), rx), lens(float64(g.right.X), float64(g.right.Y), rx))
		if fade && y > my {
			s *= max(0.45, 1-(y-my)/(2*ry))
		}
		frame := inside(math.Abs(y-my+0.3*ry) - 0.05*g.eyes)
		if off := math.Abs(x - mx); off > g.eyes/2+1.5*g.eyes || off > g.eyes/2-rx && off < g.eyes/2+rx {
			frame = 0
		}
		return opacity * max(s, frame)
	})
}

// paintMask paints cloth from below the eyes, or the nose, to the chin.
func paintMask(p painter, g geometry, rng *rand.Rand) {
	mx, my := g.between()
	deep := float64(g.mouth.Y) - my // from the eyes to the mouth
	top := my + deep*(0.25+0.4*rng.Float64())
	if rng.IntN(8) == 0 {
		top = my + deep*(0.75+0.15*rng.Float64()) // below the nose
	}
	bottom := float64(g.mouth.Y) + deep*(0.45+0.5*rng.Float64())
	wide := g.eyes * (0.8 + 0.35*rng.Float64())
	curve := deep * (0.35*rng.Float64() - 0.05)
	tilt := 0.08 * rng.NormFloat64()
	centre := float64(g.nose.X)*0.6 + mx*0.4
	p.paint(cloth(anyColour(rng), rng), func(x, y float64) float64 {
		off := (x - centre) / wide
		upper := top + curve*off*off*2 + tilt*(x-centre)
		lower := bottom - deep*0.5*off*off
		return min(inside(upper-y), inside(y-lower), inside((math.Abs(off)-1)*wide))
	})
	// The straps.
	p.paint(plain(anyColour(rng)), func(x, y float64) float64 {
		off := math.Abs(x-centre) - wide
		if off < 0 {
			return 0
		}
		return inside(math.Abs(y-(top+0.25*deep-0.3*off)) - 1)
	})
}

// paintHand paints one to four fingers in a colour near that of the face.
func paintHand(p painter, g geometry, rng *rand.Rand) {
	area := p.w * p.h
	at := int(g.nose.Y)*p.w + int(g.nose.X)
	gain := 0.75 + 0.5*rng.Float32()
	var skin [3]float32
	for c := range skin {
		skin[c] = gain * p.pix[c*area+at]
	}
	mx, my := g.between()
	cx, cy := mx+g.eyes*1.4*(rng.Float64()-0.5), my+g.eyes*(1.7*rng.Float64()-0.2)
	sin, cos := math.Sincos(2 * math.Pi * rng.Float64())
	thick := g.eyes * (0.11 + 0.07*rng.Float64())
	n, length := 1+rng.IntN(4), g.eyes*(0.8+rng.Float64())
	for i := range n {
		off := (float64(i) - float64(n-1)/2) * 2.1 * thick
		reach := length * (0.85 + 0.3*rng.Float64())
		p.paint(func(x, y int) [3]float32 {
			// Fingers are darker at their sides.
			across := (-sin*(float64(x)-cx) + cos*(float64(y)-cy) - off) / thick
			s := float32(1 - 0.3*across*across)
			return [3]float32{skin[0] * s, skin[1] * s, skin[2] * s}
		}, func(x, y float64) float64 {
			along, across := cos*(x-cx)+sin*(y-cy), -sin*(x-cx)+cos*(y-cy)-off
			return inside(math.Hypot(max(0, along-reach, -along-3*g.eyes), across) - thick)
		})
	}
}

// paintOver paints over the eyes, one eye, or the mouth.
func paintOver(p painter, g geometry, rng *rand.Rand) {
	mx, my := g.between()
	var cx, cy, rx, ry float64
	switch rng.IntN(4) {
	case 0:
		cx, cy, rx, ry = mx, my, g.eyes*(0.8+0.3*rng.Float64()), g.eyes*(0.15+0.2*rng.Float64())
	case 1:
		cx, cy, rx, ry = float64(g.left.X), float64(g.left.Y), g.eyes*0.4, g.eyes*0.3
	case 2:
		cx, cy, rx, ry = float64(g.right.X), float64(g.right.Y), g.eyes*0.4, g.eyes*0.3
	default:
		cx, cy, rx, ry = float64(g.mouth.X), float64(g.mouth.Y), g.eyes*(0.4+0.3*rng.Float64()), g.eyes*(0.2+0.2*rng.Float64())
	}
	p.paint(cloth(anyColour(rng), rng), func(x, y float64) float64 {
		return min(inside(math.Abs(x-cx)-rx), inside(math.Abs(y-cy)-ry))
	})
}
