package config

import (
	"time"
)

type Drain struct {
	Time  time.Duration `yaml:"time"`
	Delay time.Duration `yaml:"delay"`
	After string        `yaml:"after"`
}
