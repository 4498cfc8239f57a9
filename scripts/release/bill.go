package main

import (
	"bytes"
	"debug/buildinfo"
	"errors"
	"os"
	"runtime/debug"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// writeBill writes down what a binary with that checksum is made of: the modules that were linked
// into it, from the binary's own word, and the standard library. What it says is
// settled by the binary alone.
func writeBill(to, binary, sum, version string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	bill, err := billOf(info, sum, version)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	encoder := cyclonedx.NewBOMEncoder(&text, cyclonedx.BOMFileFormatJSON).SetPretty(true)
	if err := encoder.EncodeVersion(bill, cyclonedx.SpecVersion1_6); err != nil { // which scanners know
		return err
	}
	return os.WriteFile(to, text.Bytes(), 0o600)
}

var errReplaced = errors.New("a module is replaced: nobody could tell which code that is")

// billOf says what a binary with that checksum is made of.
func billOf(info *debug.BuildInfo, sum, version string) (*cyclonedx.BOM, error) {
	plugin := component(cyclonedx.ComponentTypeApplication, info.Main.Path, version)
	plugin.Name = program
	plugin.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: sum}}
	plugin.Licenses = &cyclonedx.Licenses{{License: &cyclonedx.License{ID: "MPL-2.0"}}}
	plugin.Properties = settings(info)

	parts := []cyclonedx.Component{standardLibrary(info.GoVersion)}
	for _, m := range info.Deps {
		if m.Replace != nil {
			return nil, errReplaced
		}
		parts = append(parts, component(cyclonedx.ComponentTypeLibrary, m.Path, m.Version))
	}
	uses := cyclonedx.Dependency{Ref: plugin.BOMRef, Dependencies: &[]string{}}
	for _, part := range parts {
		*uses.Dependencies = append(*uses.Dependencies, part.BOMRef)
	}

	bill := cyclonedx.NewBOM()
	bill.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, []byte(plugin.PackageURL+"#"+sum)).URN()
	bill.Metadata = &cyclonedx.Metadata{Component: &plugin, Timestamp: setting(info, "vcs.time")}
	bill.Components = &parts
	bill.Dependencies = &[]cyclonedx.Dependency{uses}
	return bill, nil
}

// component is a module of Go. Its package URL is what scanners look up.
func component(kind cyclonedx.ComponentType, modulePath, version string) cyclonedx.Component {
	url := "pkg:golang/" + modulePath + "@" + strings.ReplaceAll(version, "+", "%2B")
	return cyclonedx.Component{BOMRef: url, Type: kind, Name: modulePath, Version: version, PackageURL: url}
}

// standardLibrary is the part that comes with Go, by the name under which
// weaknesses of it are published.
func standardLibrary(goVersion string) cyclonedx.Component {
	return component(cyclonedx.ComponentTypeLibrary, "stdlib", strings.TrimPrefix(goVersion, "go"))
}

// settings are those of the build: commit, platform, flags.
func settings(info *debug.BuildInfo) *[]cyclonedx.Property {
	said := []cyclonedx.Property{{Name: "go:version", Value: info.GoVersion}}
	for _, s := range info.Settings {
		said = append(said, cyclonedx.Property{Name: "go:build:" + s.Key, Value: s.Value})
	}
	return &said
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}
