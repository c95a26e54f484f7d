// Days since 1970 as dates in the Gregorian calendar, and dates as days.

#pragma once

#include <cstdint>

namespace godb {

// Years begin in March, so that a leap day is the last day of a year. An era has 400 years.
constexpr int64_t kDaysPerEra = 146097;
constexpr int64_t kDaysBefore1970 = 719468;  // since March 1 of the year 0

struct Date {
    int year, month, day;
};

inline Date date_of(int64_t days) {
    days += kDaysBefore1970;
    const int64_t era = (days >= 0 ? days : days - (kDaysPerEra - 1)) / kDaysPerEra;
    const unsigned in_era = unsigned(days - era * kDaysPerEra);
    const unsigned years = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    const unsigned in_year = in_era - (365 * years + years / 4 - years / 100);
    const unsigned march = (5 * in_year + 2) / 153;
    const int month = int(march < 10 ? march + 3 : march - 9);
    return {int(int64_t(years) + era * 400) + (month <= 2), month,
            int(in_year - (153 * march + 2) / 5 + 1)};
}

// Days of a date whose year is positive.
inline int64_t days_of(int64_t year, int month, int day) {
    year -= month <= 2;
    const int64_t era = year / 400, in_era = year - era * 400;
    const int64_t in_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return era * kDaysPerEra + in_era * 365 + in_era / 4 - in_era / 100 + in_year -
           kDaysBefore1970;
}

}  // namespace godb
