// Package artwork draws pictures by calculation: contents and styles for style
// transfer, in which nobody else has rights. The same name and size always give
// the same pixels on one machine.
package artwork

import (
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"slices"
)

// vec is a colour, 0..1 each, or a place.
type vec struct{ r, g, b float64 }

func rgb(hex uint32) vec {
	return vec{float64(hex>>16&255) / 255, float64(hex>>8&255) / 255, float64(hex&255) / 255}
}

func mix(a, b vec, t float64) vec {
	t = clamp(t)
	return vec{a.r + (b.r-a.r)*t, a.g + (b.g-a.g)*t, a.b + (b.b-a.b)*t}
}

func (a vec) times(k float64) vec { return vec{a.r * k, a.g * k, a.b * k} }

func clamp(t float64) float64 { return min(max(t, 0), 1) }

// smooth goes from 0 at low to 1 at high.
func smooth(low, high, x float64) float64 {
	t := clamp((x - low) / (high - low))
	return t * t * (3 - 2*t)
}

// hash is a number 0..1 for a place in a lattice.
func hash(x, y, seed int) float64 {
	h := uint64(x)*0x9e3779b97f4a7c15 ^ uint64(y)*0xc2b2ae3d27d4eb4f ^ uint64(seed)*0x165667b19e3779f9 //nolint:gosec // mixing bits
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 32
	h *= 0x94d049bb133111eb
	h ^= h >> 31
	return float64(h>>11) / (1 << 53)
}

// noise is smooth and about 0.5, with details of size 1.
func noise(x, y float64, seed int) float64 {
	fx, fy := math.Floor(x), math.Floor(y)
	ix, iy := int(fx), int(fy)
	tx, ty := smooth(0, 1, x-fx), smooth(0, 1, y-fy)
	top := hash(ix, iy, seed)*(1-tx) + hash(ix+1, iy, seed)*tx
	bottom := hash(ix, iy+1, seed)*(1-tx) + hash(ix+1, iy+1, seed)*tx
	return top*(1-ty) + bottom*ty
}

// cloud is noise with ever finer details.
func cloud(x, y float64, octaves, seed int) float64 {
	sum, total, k := 0.0, 0.0, 1.0
	for o := range octaves {
		sum += k * noise(x, y, seed+o)
		total += k
		k /= 2
		x, y = 2.03*x+17.1, 2.03*y-9.7
	}
	return sum / total
}

// Contents and Styles are the names of the pictures.
func Contents() []string { return []string{"valley", "harbour", "stilllife"} }
func Styles() []string   { return []string{"strokes", "waves", "mosaic"} }

// Draw draws a picture by its name with a long side of so many pixels; nil:
// there is no such picture.
func Draw(name string, long int) *image.RGBA {
	switch name {
	case "valley":
		return shade(long, long*3/4, valley)
	case "harbour":
		return shade(long, long*3/4, harbour)
	case "stilllife":
		return shade(long, long*3/4, stillLife)
	case "strokes":
		return strokes(long, long*4/5)
	case "waves":
		return shade(long, long*3/4, waves)
	case "mosaic":
		return mosaic(long, long*4/5)
	}
	return nil
}

// shade colours each pixel by its place: x from 0, y from 0, in units of the
// long side. Four samples are taken of each pixel, against jagged edges.
func shade(w, h int, at func(x, y float64) vec) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			var sum vec
			for s := range 4 {
				c := at((float64(x)+0.25+0.5*float64(s%2))/float64(w), (float64(y)+0.25+0.5*float64(s/2))/float64(w))
				sum = vec{sum.r + clamp(c.r)/4, sum.g + clamp(c.g)/4, sum.b + clamp(c.b)/4}
			}
			img.SetRGBA(x, y, sum.rgba())
		}
	}
	return img
}

func (a vec) rgba() color.RGBA {
	b := func(v float64) uint8 { return uint8(clamp(v)*255 + 0.5) }
	return color.RGBA{b(a.r), b(a.g), b(a.b), 255}
}

// valley is a lake between mountains at sunset. 1 wide, 0.75 high.
func valley(x, y float64) vec {
	const shore = 0.52
	if y < shore {
		return valleyAbove(x, y)
	}
	// The lake mirrors what is above it, in ripples that grow towards us.
	depth := (y - shore) / (0.75 - shore)
	ripple := (cloud(x*14, y*120/(0.4+depth), 3, 40) - 0.5) * 0.05 * (0.3 + depth)
	c := mix(valleyAbove(x+ripple*0.4, shore-(y-shore)*1.4+ripple), rgb(0x1d3a55), 0.25+0.3*depth)
	glint := smooth(0.66, 0.8, cloud(x*30, y*220/(0.5+depth), 2, 44)) * math.Exp(-sq((x-0.64)/0.12))
	c = mix(c, rgb(0xffe2a8), 0.7*glint)
	// Grass and reeds at our feet.
	edge := 0.70 + 0.035*cloud(x*6, 0, 3, 50) - 0.05*smooth(0.35, 0, x)
	blade := 0.03 * noise(x*160, 0, 52) * noise(x*37, 3, 53)
	if y > edge-blade {
		t := cloud(x*90, y*30, 3, 54)
		return mix(rgb(0x16261a), rgb(0x6d7f2c), t*t*1.3)
	}
	return c
}

func sq(x float64) float64 { return x * x }

func valleyAbove(x, y float64) vec {
	sky := mix(mix(rgb(0x2b4a86), rgb(0x8fa6c8), y/0.25), rgb(0xf7b267), smooth(0.18, 0.46, y))
	puff := cloud(x*4+3, y*11, 5, 1)
	sky = mix(sky, mix(rgb(0xfff1d6), rgb(0xe2795b), smooth(0.1, 0.4, y)), 0.85*smooth(0.52, 0.78, puff))
	d := math.Hypot(x-0.64, y-0.36)
	sky = mix(sky, rgb(0xfff6d0), math.Exp(-sq(d/0.12))*0.8)
	if d < 0.035 {
		sky = rgb(0xfffbe8)
	}
	for i, m := range []struct {
		base, tall, wide float64
		near, far        vec
	}{
		{0.40, 0.22, 2.6, rgb(0x8b83a8), rgb(0xd9a991)},
		{0.46, 0.17, 4.1, rgb(0x5a6288), rgb(0xa4838c)},
		{0.50, 0.11, 6.3, rgb(0x35496a), rgb(0x5d6475)},
		{0.525, 0.05, 11, rgb(0x1f3a3a), rgb(0x2f4f3d)},
	} {
		ridge := m.base - m.tall*sq(cloud(x*m.wide+float64(i)*7.3, 0.5, 6, 10+i))*1.8 + m.tall*0.2
		if i == 3 { // firs
			ridge -= 0.03 * math.Abs(math.Mod(x*70+2*noise(x*9, 1, 20), 1)-0.5) * (0.6 + noise(x*25, 2, 21))
		}
		if y > ridge {
			light := cloud(x*18+y*9, y*22-x*5, 4, 30+i)
			c := mix(m.near, m.far, smooth(0.3, 0.75, light))
			if snow := ridge + 0.03 + 0.05*noise(x*40, y*30, 25); i == 0 && y < snow {
				c = mix(c, rgb(0xfbeee6), 0.75)
			}
			sky = mix(c, sky, 0.15*clamp((y-ridge)/0.12)) // mist
		}
	}
	return sky
}

// harbour is a row of houses by the water, with boats.
func harbour(x, y float64) vec {
	const quay = 0.47
	if y < quay {
		return houses(x, y)
	}
	if y < quay+0.018 {
		return mix(rgb(0x6b5f55), rgb(0x9a8d7d), cloud(x*60, y*90, 3, 60))
	}
	for _, b := range []struct {
		x, y, size float64
		hull, sail vec
	}{
		{0.24, 0.62, 0.15, rgb(0xb3322c), rgb(0xf3e6c8)},
		{0.70, 0.575, 0.105, rgb(0x1f5f7a), rgb(0xe9c46a)},
		{0.88, 0.66, 0.13, rgb(0xe0dccf), rgb(0xd1603d)},
	} {
		if c, ok := boat(x, y, b.x, b.y, b.size, b.hull, b.sail); ok {
			return c
		}
	}
	depth := (y - quay) / (0.75 - quay)
	wave := cloud(x*16, y*110/(0.5+depth), 4, 70) - 0.5
	c := mix(houses(x+wave*0.05*(0.3+depth), 2*quay-y*1.02+0.02+wave*0.09*(0.4+depth)), rgb(0x24566b), 0.35+0.35*depth)
	return mix(c, rgb(0xf2f5ee), 0.6*smooth(0.17, 0.3, wave))
}

func boat(x, y, at, water, size float64, hull, sail vec) (vec, bool) {
	u, v := (x-at)/size, (water-y)/size // v up
	if v < 0.18 && v > -0.02 && math.Abs(u) < 0.42+0.5*v {
		return mix(hull, hull.times(0.45), smooth(0.1, -0.02, v)+0.3*noise(u*4, v*60, 81)), true
	}
	if math.Abs(u) < 0.012 && v > 0 && v < 1.25 {
		return rgb(0x4a3526), true
	}
	if u > 0.03 && v > 0.25 && v < 1.2-1.6*(u-0.03) {
		return mix(sail, sail.times(0.7), smooth(0, 0.6, u)+0.2*noise(u*8, v*3, 82)), true
	}
	if u < -0.03 && v > 0.3 && v < 1.05+1.9*(u+0.03) {
		return mix(sail.times(0.92), sail.times(0.6), smooth(0, -0.5, u)), true
	}
	return vec{}, false
}

func houses(x, y float64) vec {
	sky := mix(rgb(0x6fa8d6), rgb(0xdcebf2), smooth(0, 0.4, y))
	sky = mix(sky, rgb(0xffffff), 0.9*smooth(0.5, 0.75, cloud(x*3.5+8, y*7, 5, 90)))
	hill := 0.30 - 0.10*cloud(x*2.2, 0, 4, 91)
	if y > hill {
		sky = mix(rgb(0x3f6b3f), rgb(0x86a95a), cloud(x*30, y*40, 4, 92))
	}
	const count = 9
	n := int(math.Floor(x * count))
	u := x*count - float64(n)
	tall := 0.14 + 0.12*hash(n, 1, 93)
	top := 0.47 - tall
	walls := []uint32{0xd98c5f, 0xe8d5a3, 0xc0504a, 0x8fb3a6, 0xe3b04b, 0xd9cfc0, 0x7f8fb0, 0xcf7f78}
	wall := rgb(walls[int(hash(n, 2, 94)*8)%8])
	gable := top - 0.055*(1-2*math.Abs(u-0.5))
	switch {
	case y > top:
		c := mix(wall, wall.times(0.75), 0.5*cloud(x*50, y*50, 3, 95)+0.4*smooth(0.85, 1, u))
		rows := tall / 0.055
		row := (y - top) / 0.055
		col := u * 3
		fu, fv := col-math.Floor(col), row-math.Floor(row)
		if math.Floor(row) < math.Floor(rows) && fu > 0.3 && fu < 0.7 && fv > 0.25 && fv < 0.8 {
			if fu < 0.35 || fu > 0.65 || fv < 0.32 || math.Abs(fu-0.5) < 0.02 {
				return rgb(0xf5f0e6)
			}
			return mix(rgb(0x22303c), rgb(0x9fc3d6), hash(n*7+int(col), int(row), 96)*0.7*(1-fv)*1.5)
		}
		if row > math.Floor(rows) && fu > 0.35 && fu < 0.65 && math.Floor(col) == 1 {
			return rgb(0x4b2e20)
		}
		return c
	case y > gable:
		tile := math.Mod(y*160, 1)
		return mix(rgb(0x8a3b2a), rgb(0xb65a3c), 0.5*tile+0.5*noise(x*80, y*160, 97))
	case math.Abs(u-0.72) < 0.06 && y > gable-0.03 && y > top-0.06:
		return rgb(0x7a5545)
	}
	return sky
}

// stillLife is fruit in a bowl on a cloth, before a wall.
func stillLife(x, y float64) vec {
	const table = 0.47
	wall := mix(rgb(0x3d4f4a), rgb(0x8a7f5c), 0.9*math.Exp(-sq((x-0.3)/0.4)-sq((y-0.15)/0.35))+0.25*cloud(x*5, y*5, 5, 100))
	c := wall
	if y > table {
		// A cloth with checks, in perspective and in folds.
		z := 0.16 / (y - table + 0.12)
		fold := cloud(x*5+z, z*3, 3, 101)
		u, v := (x-0.5)*z*9+0.8*fold, z*9+0.7*fold
		check := (math.Floor(u) + math.Floor(v))
		c = rgb(0xefe6d8)
		if math.Mod(math.Abs(check), 2) == 1 {
			c = rgb(0xb8433e)
		}
		c = c.times(0.55 + 0.5*fold)
		shadow := math.Exp(-sq((x-0.56)/0.26) - sq((y-0.585)/0.05))
		c = c.times(1 - 0.55*shadow)
	}
	type ball struct {
		x, y, r   float64
		from, two vec
	}
	for _, b := range []ball{
		{0.40, 0.345, 0.085, rgb(0xc23b22), rgb(0xe9b44c)},
		{0.60, 0.335, 0.088, rgb(0xe58a1f), rgb(0xf4a836)},
		{0.505, 0.295, 0.082, rgb(0x7d9b3c), rgb(0xc6c95a)},
		{0.475, 0.385, 0.075, rgb(0xd9601f), rgb(0xf0902f)},
		{0.675, 0.395, 0.062, rgb(0x5a2347), rgb(0x8c3d63)},
	} {
		if p, ok := sphere(x, y, b.x, b.y, b.r, b.from, b.two); ok {
			c = p
		}
	}
	// The bowl.
	if u := (x - 0.53) / 0.24; math.Abs(u) < 1 {
		rim := 0.42 + 0.022*math.Sqrt(1-u*u)
		foot := 0.42 + 0.165*math.Sqrt(1-math.Pow(math.Abs(u), 2.6))
		if y > rim && y < foot {
			light := math.Exp(-sq((u+0.45)/0.35)) * math.Exp(-sq((y-0.47)/0.07))
			c = mix(rgb(0x1f3f6e), rgb(0x3f6fa8), 0.6*(1-math.Abs(u)))
			band := math.Sin(u*26+6*math.Sin(y*90)) * math.Sin((y-0.42)*95)
			c = mix(c, rgb(0xf2efe4), 0.85*smooth(0.1, 0.35, band))
			c = mix(c.times(1.05-0.55*smooth(0.1, 1, u)), rgb(0xffffff), 0.6*light)
		}
	}
	// Grapes and a lemon on the table.
	for i := range 17 {
		gx := 0.17 + 0.03*float64(i%4) + 0.012*float64(i/4%2) + 0.01*hash(i, 0, 110)
		gy := 0.545 + 0.024*float64(i/4) + 0.01*hash(i, 1, 110)
		if p, ok := sphere(x, y, gx, gy, 0.0215, rgb(0x3b1f4f), rgb(0x7b4d94)); ok {
			c = p
		}
	}
	if p, ok := sphere(x+0.15*(y-0.62), (y-0.62)*1.3+0.62, 0.83, 0.62, 0.062, rgb(0xe8c21f), rgb(0xf8e06a)); ok {
		c = p
	}
	return c
}

// sphere is a ball lit from the upper left, mottled.
func sphere(x, y, cx, cy, r float64, a, b vec) (vec, bool) {
	u, v := (x-cx)/r, (y-cy)/r
	d := u*u + v*v
	if d > 1 {
		return vec{}, false
	}
	w := math.Sqrt(1 - d)
	light := clamp(-0.5*u - 0.55*v + 0.67*w)
	skin := cloud(3*u+7*cx*10, 3*v+w, 4, 120)
	c := mix(a, b, 1.6*skin-0.3).times(0.25 + 0.95*light)
	return mix(c, rgb(0xfffdf2), 0.8*math.Pow(clamp(-0.34*u-0.42*v+0.84*w), 40)), true
}

// waves are curved bands of a woodcut: swells with crests, each band with
// lines along it.
func waves(x, y float64) vec {
	paper := mix(rgb(0xf0e2c0), rgb(0xe2cfa2), cloud(x*40, y*40, 3, 200))
	c := mix(paper, rgb(0xd8b98c), smooth(0.45, 0.0, y))
	if d := math.Hypot(x-0.74, y-0.16); d < 0.085 {
		c = mix(rgb(0xc8452d), rgb(0xb13a26), noise(x*60, y*60, 201))
	}
	for i := range 9 {
		t := float64(i)
		base := 0.17 + 0.065*t
		swell := 0.055 * math.Sin(x*(7.5-0.35*t)+1.9*t) * (0.7 + 0.5*noise(x*3, t, 202))
		curl := 0.02 * math.Sin(x*23+2.3*t+3*math.Sin(x*5+t))
		line := base + swell + curl
		d := y - line
		if d < 0 {
			continue
		}
		blues := []uint32{0x9db7b5, 0x6f9aa8, 0x3f7391, 0x27567c, 0x1b3f66}
		c = rgb(blues[(i*3+1)%5])
		// Lines that follow the crest, thinner as they go down.
		phase := d*(70-3*t) + 0.9*cloud(x*7, y*7, 3, 203+i)
		if band := phase - math.Floor(phase); band < 0.32-0.2*smooth(0, 0.12, d) {
			c = mix(rgb(0xeee6cf), c, smooth(0.05, 0.2, d))
		}
		if d < 0.006 {
			c = rgb(0x14233a)
		} else if foam := 0.012 + 0.022*noise(x*55, t, 210)*noise(x*21, t, 211); d < foam {
			c = rgb(0xf7f1e0)
		}
	}
	grain := noise(x*25, y*420, 220)
	return c.times(0.93 + 0.1*grain)
}

// strokes are brush strokes along swirling lines, coarse ones first.
func strokes(w, h int) *image.RGBA {
	rng := rand.New(rand.NewPCG(7, 11)) //nolint:gosec // a drawing
	img := shade(w, h, func(x, y float64) vec { return night(x, y).times(0.55) })
	scale := float64(w)
	for _, layer := range []struct {
		count       int
		long, thick float64
		vary        float64
	}{
		{1500, 0.11, 0.016, 0.10}, {5200, 0.065, 0.0085, 0.16}, {9000, 0.04, 0.0048, 0.22},
	} {
		for range layer.count {
			x, y := rng.Float64(), rng.Float64()*float64(h)/scale
			c := night(x, y)
			k := 1 + layer.vary*rng.NormFloat64()
			c = vec{c.r*k + 0.04*rng.NormFloat64(), c.g*k + 0.03*rng.NormFloat64(), c.b*k + 0.04*rng.NormFloat64()}
			stroke(img, x, y, layer.long*(0.6+0.8*rng.Float64()), layer.thick*(0.7+0.6*rng.Float64()), c, rng.IntN(1<<20))
		}
	}
	return img
}

// swirls are what the strokes turn around.
func swirls() [][4]float64 { // x, y, size, turn
	return [][4]float64{{0.34, 0.26, 0.16, 1}, {0.62, 0.34, 0.12, -1}, {0.83, 0.14, 0.1, 1}, {0.12, 0.12, 0.08, -1}, {0.52, 0.1, 0.06, 1}}
}

// flow is the direction of a stroke.
func flow(x, y float64) float64 {
	dx, dy := 1.0, 0.35*math.Sin(x*7+2)+0.8*(cloud(x*3, y*3, 2, 300)-0.5)
	for _, s := range swirls() {
		ux, uy := x-s[0], y-s[1]
		k := 3.2 * math.Exp(-(ux*ux+uy*uy)/(s[2]*s[2])) * s[3]
		n := math.Hypot(ux, uy) + 1e-6
		dx, dy = dx-k*uy/n, dy+k*ux/n
	}
	if y > 0.56 {
		dy -= 1.5 * smooth(0.56, 0.8, y) * math.Sin(x*9)
	}
	return math.Atan2(dy, dx)
}

// night is what the strokes are of: stars over hills.
func night(x, y float64) vec {
	c := mix(rgb(0x16305f), rgb(0x4f86b8), 0.2+0.7*cloud(x*5, y*6, 3, 310))
	for _, s := range swirls() {
		d := math.Hypot(x-s[0], y-s[1]) / s[2]
		c = mix(c, mix(rgb(0xf6d24a), rgb(0xa9cfc4), smooth(0.25, 0.9, d)), math.Exp(-d*d*1.9)*(0.65+0.35*math.Sin(d*17)))
	}
	hill := 0.60 - 0.07*math.Sin(x*4+0.6) - 0.03*math.Sin(x*11)
	if y > hill {
		c = mix(rgb(0x1d3b3a), rgb(0x7c9a3e), cloud(x*8, y*14, 3, 320))
		c = mix(c, rgb(0xd8a23a), 0.6*smooth(0.62, 0.75, cloud(x*12+4, y*12, 2, 321)))
	}
	return c
}

// stroke paints along the flow, with bristles, lighter on one side.
func stroke(img *image.RGBA, x, y, long, thick float64, c vec, seed int) {
	w := float64(img.Rect.Dx())
	step := max(0.7/w, thick/6)
	for along := 0.0; along < long; along += step {
		angle := flow(x, y)
		x, y = x+step*math.Cos(angle), y+step*math.Sin(angle)
		taper := thick * math.Sqrt(math.Sin(math.Pi*(along+step)/(long+2*step)))
		nx, ny := -math.Sin(angle), math.Cos(angle)
		for across := -taper; across <= taper; across += 0.6 / w {
			px, py := int((x+across*nx)*w), int((y+across*ny)*w)
			if !(image.Point{px, py}).In(img.Rect) {
				continue
			}
			bristle := noise(across/thick*4+50, along/long*2, seed)
			k := 0.78 + 0.42*bristle - 0.16*across/thick
			img.SetRGBA(px, py, c.times(k).rgba())
		}
	}
}

// mosaic is stones set in rings, each of one colour with a worn face.
func mosaic(w, h int) *image.RGBA {
	type stone struct{ x, y, turn float64 }
	var stones []stone
	high := float64(h) / float64(w)
	rng := rand.New(rand.NewPCG(3, 5)) //nolint:gosec // a drawing
	const size, columns = 0.021, 50
	for row := range int(high/size) + 3 {
		for col := range columns {
			jitter := func() float64 { return 0.38 * (rng.Float64() - 0.5) }
			x := (float64(col) - 1 + 0.5*float64(row%2) + jitter()) * size
			y := (float64(row) - 1 + jitter()) * size
			stones = append(stones, stone{x, y, rng.Float64()})
		}
	}
	return shade(w, h, func(x, y float64) vec {
		row, col := int(y/size)+1, int(x/size)+1
		best, second, at := math.Inf(1), math.Inf(1), 0
		for r := max(row-2, 0); r <= row+2; r++ {
			for c := max(col-2, 0); c <= col+2; c++ {
				i := r*columns + c
				if c >= columns || i >= len(stones) {
					continue
				}
				d := math.Max(math.Abs(x-stones[i].x), math.Abs(y-stones[i].y))*0.6 + 0.4*math.Hypot(x-stones[i].x, y-stones[i].y)
				if d < best {
					best, second, at = d, best, i
				} else {
					second = min(second, d)
				}
			}
		}
		s := stones[at]
		c := ornament(s.x, s.y, high)
		c = c.times(0.8 + 0.4*s.turn)
		face := 0.85 + 0.3*noise(x*300, y*300, 401) - 5*(x-s.x) - 6*(y-s.y)
		grout := mix(rgb(0x4a4136), rgb(0x6b6152), noise(x*200, y*200, 402))
		return mix(grout, c.times(face), smooth(0.0011, 0.0028, second-best))
	})
}

// ornament is what a mosaic shows: rings, a star and a border of waves.
func ornament(x, y, high float64) vec {
	palette := []uint32{0xc9a227, 0x9b2d20, 0x1f5c66, 0xeadfc4, 0x2f7f6b, 0xd0743c, 0x24364f}
	pick := func(i int) vec { return rgb(palette[(i%7+7)%7]) }
	if edge := slices.Min([]float64{x, 1 - x, y, high - y}); edge < 0.1 {
		along := x + y
		wave := edge + 0.018*math.Sin(along*40)
		return pick(int(wave*38) + 3)
	}
	dx, dy := x-0.5, y-high/2
	d, angle := math.Hypot(dx, dy), math.Atan2(dy, dx)
	ring := d*(1+0.16*math.Cos(8*angle)) + 0.012*angle
	return pick(int(ring*26) + int(math.Floor((angle+math.Pi)*8/math.Pi+d*9))%2*3)
}
