// Where the decoder can begin inside of a scan, learnt from earlier decodes of the same file.
//
// Huffman codes can only be read from the top, so that whoever needs the middle decodes what lies above it. What was
// decoded once is passed over: before every so many units it is noted at which bit they begin and what the DC
// predictions are there.
#pragma once
#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastsemi {

// Memory that is kept of one file between decodes, zero at first. Threads and processes may share it: what it holds
// counts only where its check is right.
struct Record {
    uint64_t* words = nullptr;
    size_t count = 0;  // less than 3: nothing is kept
};

struct EntryPoint {
    uint64_t bit;  // of the data without stuffing
    int prediction[3];
};

// One object per thread, reused for many files.
class EntryPoints {
public:
    // Takes what the record holds of a file with these bytes, all of them; of other bytes it holds nothing.
    void open(Record record, const uint8_t* data, size_t size);
    // The scan has so many minimum coded units.
    void begin(int units);

    // Point 0 is the top; the others lie `unit` units behind it. All units before a known point were decoded well.
    int known() const { return known_; }
    int unit(int number) const { return number * spacing_; }
    EntryPoint at(int number) const;
    // The last known point that does not lie behind a unit.
    int before(int unit) const { return std::min(unit / spacing_, known_); }

    // The unit before which a point is to be noted.
    int next() const { return next_; }
    void note(const EntryPoint& point);

    // Keeps what is known now.
    void save() const;

private:
    uint64_t check() const;

    Record record_;
    std::vector<uint64_t> words_;  // key, check, points
    int spacing_ = INT_MAX, known_ = 0, saved_ = 0, next_ = INT_MAX;
};

}  // namespace fastsemi
