package likeness

import (
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/style"
)

// FeatureNetworks are the networks that package style can compare pictures
// with: the models with the task "features" whose file is there. Files are read
// when a picture first needs them. [Pipeline.Registry] is a registry, and
// [embed.OpenRegistry] makes one without a pipeline.
func FeatureNetworks(r *embed.Registry) []style.Network {
	var all []style.Network
	for _, m := range r.Models() {
		if m.Task != embed.TaskFeatures || m.Path == "" || m.SHA256 == "" {
			continue
		}
		f := m.Features
		all = append(all, style.Network{
			ID: m.ID, Read: m.ReadVerified,
			Input: m.Input.Name, BGR: m.Input.Order == "bgr", Mean: m.Input.Mean, Scale: m.Input.Scale,
			Defaults: style.Defaults{
				Layers:  style.Layers{Content: f.Content, Style: f.Style},
				Content: f.ContentWeight, Style: f.StyleWeight, TV: f.TVWeight,
			},
			Tile: f.Tile,
		})
	}
	return all
}
