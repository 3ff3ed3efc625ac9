package embed

import "github.com/likeness-id/likeness/pkg/face"

// Task says what a model is for.
type Task string

// The tasks.
const (
	TaskDetector Task = "detector"
	TaskEncoder  Task = "encoder"
	TaskFeatures Task = "features" // whose layers style transfer compares
	TaskQuality  Task = "quality"  // says whether a crop shows a face as encoders know them
)

// Manifest is the contract of one model: models/<id>.json. models/README.md
// explains every field. A file that contradicts its manifest is refused.
type Manifest struct {
	ID      string `json:"id"`
	Task    Task   `json:"task"`
	File    string `json:"file"`   // base name, beside the manifest or in a models folder
	SHA256  string `json:"sha256"` // of the file, lower-case hex
	Size    int64  `json:"size"`   // of the file, bytes
	License string `json:"license"`
	Source  string `json:"source"`        // where it comes from, for people
	URL     string `json:"url,omitempty"` // where `likeness models pull` gets it
	// Published says that the source publishes the model in another format,
	// from which `likeness models pull` makes File.
	Published    *Published `json:"published,omitempty"`
	TrainingData string     `json:"training_data"`
	Notes        string     `json:"notes,omitempty"`

	Input   Input    `json:"input"`
	Outputs []Output `json:"outputs"`

	// Detectors.
	Decoder   string  `json:"decoder,omitempty"`   // the family, which says how outputs become faces: one of [Decoders]
	Scores    string  `json:"scores,omitempty"`    // what an "scrfd" graph gives: "probability", 0..1, or "logit", before the sigmoid; empty: "probability"
	Threshold float32 `json:"threshold,omitempty"` // least detection score, 0..1
	// QualityThreshold is the detection score, 0..1, below which the quality
	// gate doubts a face (LOW_DETECTION_SCORE). Families score good faces
	// differently. 0: that of [QualityLimits].
	QualityThreshold float32 `json:"quality_threshold,omitempty"`

	// Encoders.
	Dimension   int               `json:"dimension,omitempty"` // length of the embedding
	Alignment   [][2]float32      `json:"alignment,omitempty"` // five template points in pixels of the input, order of face.Landmarks.Points
	Calibration *face.Calibration `json:"calibration,omitempty"`
	Head        *face.Head        `json:"head,omitempty"` // without one there are no probabilities
	// Cohort says that the graph normalises scores: the last number of the
	// embedding says how typical a face is.
	Cohort *Cohort `json:"cohort,omitempty"`

	// Quality networks, with Alignment, and Threshold as the least probability
	// of the first class that passes.
	Classes []face.Reason `json:"classes,omitempty"` // of the output; the first, empty, is a face that passes

	// Features.
	Features *Features `json:"features,omitempty"`
	Cut      *Cut      `json:"cut,omitempty"`
}

// Cohort is what an encoder's scores are normalised by.
type Cohort struct {
	People int `json:"people"` // whose embeddings the graph has
	Top    int `json:"top"`    // how many of the largest cosines with them count
}

// Published are the files that a model is made from, and how.
type Published struct {
	Format string          `json:"format"` // [FormatOpenVINO]
	Files  []PublishedFile `json:"files"`  // in the order of the format
}

// FormatOpenVINO is OpenVINO's intermediate representation, version 11: a file
// with the graph (.xml), then one with the weights (.bin).
const FormatOpenVINO = "openvino-ir-11"

// PublishedFile is a file that the source publishes.
type PublishedFile struct {
	URL    string `json:"url"`
	SHA384 string `json:"sha384"` // lower-case hex
	Size   int64  `json:"size"`   // bytes
}

// CanBePulled reports whether `likeness models pull` gets the model's file.
func (m Manifest) CanBePulled() bool { return m.URL != "" || m.Published != nil }

// Features are the layers that style transfer compares, and the weights at
// which pictures look right. Layers are named as the graph's tensors are.
type Features struct {
	Content map[string]float64 `json:"content"`
	Style   map[string]float64 `json:"style"`
	// Factors of the whole losses.
	ContentWeight float64 `json:"content_weight"`
	StyleWeight   float64 `json:"style_weight"`
	TVWeight      float64 `json:"tv_weight"`
	// Tile is the most pixels along a side that are computed at once. 0: as many
	// as the program takes.
	Tile int `json:"tile,omitempty"`
}

// Cut says that URL has a larger model, of which only the part that computes
// Outputs is kept. `likeness models pull` checks it, cuts it, and writes a
// manifest with the size and the hash of that part. Until then SHA256 and Size
// may be missing.
type Cut struct {
	SHA256 string `json:"sha256"` // of what URL has, lower-case hex
	Size   int64  `json:"size"`
}

// Input is a model's image input: float32, NCHW.
type Input struct {
	Name     string     `json:"name"`
	Width    int        `json:"width"`  // 0: any multiple of Multiple
	Height   int        `json:"height"` // 0: any multiple of Multiple
	Multiple int        `json:"multiple,omitempty"`
	Order    string     `json:"order"` // "rgb" or "bgr"
	Mean     [3]float32 `json:"mean"`  // subtracted from 0..255, in Order
	Scale    [3]float32 `json:"scale"` // multiplied afterwards, in Order
}

// Output is one output tensor.
type Output struct {
	Name  string  `json:"name"`
	Shape []int64 `json:"shape"` // -1 where it depends on the input
}
