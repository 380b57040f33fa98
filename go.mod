module github.com/modelpipe/modelpipe

go 1.26
